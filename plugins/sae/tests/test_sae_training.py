"""Training finds what is there, and goes on where it was stopped."""

import copy
import json
import math
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import tenterhook_tiny
from tenterhook_capture import save_activations
from tenterhook_sae import (
    BadSetting,
    BatchTopKSae,
    GatedSae,
    JumpReLUSae,
    L1Sae,
    MatryoshkaBatchTopKSae,
    ModelBatches,
    NoRows,
    NotFinite,
    OtherCheckpoint,
    RunBatches,
    Sae,
    SaeExists,
    TopKSae,
    Trainer,
    TrainingProgress,
    TrainingSettings,
    UnreadableSae,
    WrongWidth,
    evaluate_in_model,
    evaluate_rows,
    find_examples,
    load_sae,
    log_to,
    strongest_latents,
    train_sae,
)
from tenterhook_store import MemoryStore, OtherLoader, Run

LAYER = "transformer.h.1"


class Synthetic:
    """Sparse sums of known directions, more of them than dimensions; a stranger's `Batches`."""

    def __init__(self, features: int = 96, width: int = 48, active: int = 4, batch: int = 256):
        generator = torch.Generator().manual_seed(12345)
        directions = torch.randn(features, width, generator=generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.width, self._batch, self._share = width, batch, active / features
        self.spoiled = -1
        self._count = 0

    @property
    def about(self) -> dict[str, Any]:
        """What they are."""
        return {"layer": "synthetic", "features": len(self.directions)}

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            generator = torch.Generator().manual_seed(self._count)
            size = self._batch, len(self.directions)
            on = torch.rand(size, generator=generator) < self._share
            rows = (on * (0.5 + torch.rand(size, generator=generator))) @ self.directions
            if self._count == self.spoiled:
                rows[3, 5] = torch.nan
            self._count += 1
            yield rows

    def state_dict(self) -> dict[str, Any]:
        """How many there were."""
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self._count = state["count"]


@pytest.mark.matrix(sample=2)
@pytest.mark.parametrize(
    ("make_sae", "more"),
    [
        (lambda: TopKSae(96, 48, 4), {}),
        (lambda: BatchTopKSae(96, 48, 4), {}),
        (lambda: JumpReLUSae(96, 48), {}),
        (lambda: L1Sae(96, 48), {"aux": 0.0, "resample_every": 200}),
        (lambda: GatedSae(96, 48), {"aux": 0.0, "resample_every": 200}),
        (lambda: MatryoshkaBatchTopKSae(96, 48, 4, widths=(48, 96)), {}),
    ],
    ids=["topk", "batchtopk", "jumprelu", "l1", "gated", "matryoshka"],
)
def test_it_recovers_a_dictionary(make_sae: Callable[[], Sae], more: dict[str, Any]) -> None:
    """96 directions in 48 dimensions: the mean highest cosine is 0.9 at least."""
    torch.manual_seed(0)
    data, sae = Synthetic(), make_sae()
    before = data.directions @ sae.W_dec.detach().T
    chosen: dict[str, Any] = {"steps": 800, "learning_rate": 5e-3, "dead_after": 10_000, **more}
    train_sae(sae, data, TrainingSettings(**chosen))

    cosines = data.directions @ sae.W_dec.detach().T
    assert float(before.max(1).values.mean()) < 0.6
    assert float(cosines.max(1).values.mean()) >= 0.9
    found = evaluate_rows(sae, next(iter(data)))
    assert found.explained_variance > 0.7
    assert found.l0 < 20
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(96))


# --- checkpoints


def few(**more: Any) -> TrainingSettings:
    """A short training that uses everything."""
    chosen = {"steps": 12, "dead_after": 256, "resample_every": 3, "checkpoint_every": 5}
    return TrainingSettings(**{**chosen, "log_every": 4, **more})


class Stopped(Exception):
    """Ends a training, or a capture, in the middle."""


def stopping(at: int) -> Callable[[TrainingProgress], None]:
    """A progress callback that raises at a step."""

    def progress(found: TrainingProgress) -> None:
        if found.step == at:
            raise Stopped

    return progress


def test_resumed_it_comes_to_the_same_numbers(make: Callable[..., Sae], tmp_path: Path) -> None:
    """Weights to the bit, and the measures; wherever it was stopped."""
    whole = make(64, 48)
    train_sae(whole, Synthetic(), few(log_every=1), out=tmp_path / "whole")
    for at in (6, 11):
        out = tmp_path / str(at)
        with pytest.raises(Stopped):
            train_sae(make(64, 48), Synthetic(), few(log_every=1), out=out, progress=stopping(at))
        assert not out.joinpath("cfg.json").exists()
        resumed = train_sae(make(64, 48), Synthetic(), few(log_every=1), out=out)

        for name, tensor in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), name
        again, first = (p / "training.json" for p in (out, tmp_path / "whole"))
        assert again.read_text() == first.read_text()
        assert torch.equal(load_sae(out).W_enc, whole.W_enc)


@pytest.mark.parametrize("batch", [256, 3000], ids=["all rows kept", "the latest kept"])
def test_a_batch_topk_resumed_calibrates_on_the_same_rows(tmp_path: Path, batch: int) -> None:
    """The checkpoint has those of before: the threshold is the same to the bit."""

    def trained(out: Path, at: int = -1) -> BatchTopKSae:
        torch.manual_seed(0)
        sae = BatchTopKSae(64, 48, 4)
        chosen = few(log_every=1, checkpoint_every=1)
        train_sae(sae, Synthetic(batch=batch), chosen, out=out, progress=stopping(at))
        return sae

    whole = trained(tmp_path / "whole")
    for at in (1, 8, 12):
        with pytest.raises(Stopped):
            trained(tmp_path / str(at), at)
        resumed = trained(tmp_path / str(at))
        assert torch.equal(resumed.threshold, whole.threshold)
    assert torch.equal(trained(tmp_path / "whole").threshold, whole.threshold)  # finished already
    kept = load_file(tmp_path / "whole" / "checkpoint.safetensors")["latest"]
    assert len(kept) == min(12 * batch, 8192)
    used = evaluate_rows(whole, kept)
    assert abs(used.l0 - 4) < 1 / len(kept)


@pytest.mark.parametrize("live", [False, True], ids=["from a run", "live"])
def test_a_batch_topk_in_use_has_k_active(loaded: Any, run: Run, live: bool) -> None:
    """After a few steps already, when the running mean of its threshold lags far behind."""
    torch.manual_seed(0)
    sae = BatchTopKSae(256, 128, 16.5)
    texts = tenterhook_tiny.read("sample").texts[:150]
    batches = (
        ModelBatches(loaded, LAYER, texts, batch_size=256, buffer_rows=2048)
        if live
        else RunBatches(run, LAYER, batch_size=256)
    )
    train_sae(sae, batches, TrainingSettings(steps=60, learning_rate=5e-3))

    found = evaluate_rows(sae, run[LAYER][:])
    assert found.l0 == pytest.approx(16.5, rel=0.05)
    assert found.explained_variance > 0.6


def test_a_batch_topk_stopped_is_calibrated_too(tmp_path: Path) -> None:
    """Whatever stopped it: the SAE in memory is one to use. An older checkpoint has no rows."""
    torch.manual_seed(0)
    sae = BatchTopKSae(64, 48, 4)
    with pytest.raises(Stopped):
        train_sae(sae, Synthetic(), few(log_every=1), out=tmp_path, progress=stopping(6))
    seen = [next(each) for each in [iter(Synthetic())] for _ in range(6)]
    assert evaluate_rows(sae, torch.cat(seen)).l0 == pytest.approx(4, abs=0.01)

    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as opened:
        facts = opened.metadata()
    older = {name: tensor for name, tensor in load_file(path).items() if name != "latest"}
    save_file(older, path, metadata=facts)
    resumed = train_sae(BatchTopKSae(64, 48, 4), Synthetic(), few(log_every=1), out=tmp_path)
    assert evaluate_rows(resumed, torch.cat(seen)).l0 == pytest.approx(4, rel=0.2)


def seeded() -> TopKSae:
    """The same one every time."""
    torch.manual_seed(0)
    return TopKSae(64, 48, 8)


def pressed(sae: Sae, at: int) -> None:
    """Press Ctrl-C in the middle of a step."""
    normalize, calls = sae.normalize_decoder, iter(range(1, 100))

    def normalize_decoder() -> None:
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        normalize()

    sae.normalize_decoder = normalize_decoder  # type: ignore[method-assign]


def test_ctrl_c_waits_for_the_step_and_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    """The checkpoint is of a whole step, and the SAE works on activations as they are."""
    whole, stopped = (seeded() for _ in range(2))
    train_sae(whole, Synthetic(), few(), out=tmp_path / "whole")
    pressed(stopped, 7)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever ignored it
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            train_sae(stopped, Synthetic(), few(), out=tmp_path / "stopped")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)

    assert caught.value.__notes__ == ["Stopped after step 7; the same call again goes on."]
    resumed = train_sae(seeded(), Synthetic(), few(), out=tmp_path / "stopped")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_interrupted_within_a_step_the_latest_checkpoint_stays(tmp_path: Path) -> None:
    """Where the interrupt cannot wait, as with a handler of somebody else."""
    whole, stopped = (seeded() for _ in range(2))
    train_sae(whole, Synthetic(), few(), out=tmp_path / "whole")
    pressed(stopped, 7)

    def handler(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_sae(stopped, Synthetic(), few(), out=tmp_path / "stopped")
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    resumed = train_sae(seeded(), Synthetic(), few(), out=tmp_path / "stopped")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


class Large(Synthetic):
    """Larger, and far from 0."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from (20 * rows + 30 for rows in super().__iter__())


def test_stopped_it_works_on_activations_as_they_are() -> None:
    """What a training changes of the scale, it puts right when it ends before its time."""
    batches, sae = Large(), seeded()
    batches.spoiled = 60
    with pytest.raises(NotFinite):
        train_sae(sae, batches, TrainingSettings(steps=80, learning_rate=1e-2))

    assert evaluate_rows(sae, next(iter(Large()))).explained_variance > 0.3


def test_live_batches_of_another_buffer_are_others(loaded: Any, tmp_path: Path) -> None:
    """They would not come to the same numbers, so the checkpoint is not theirs."""
    texts = ["And the king said.", "What is this?"]
    four, six = (
        ModelBatches(loaded, "layer_1", texts, batch_size=2, buffer_rows=rows) for rows in (4, 6)
    )
    train_sae(TopKSae(64, 128, 8), four, few(steps=1), out=tmp_path)

    with pytest.raises(OtherCheckpoint, match="buffer_rows=4, and this training has buffer_rows=6"):
        train_sae(TopKSae(64, 128, 8), six, few(steps=1), out=tmp_path)


def test_finished_it_is_not_trained_again(make: Callable[..., Sae], tmp_path: Path) -> None:
    """The same call again returns what there is."""
    first = train_sae(make(64, 48), Synthetic(), few(), out=tmp_path)
    reports: list[TrainingProgress] = []
    second = train_sae(make(64, 48), Synthetic(), few(), out=tmp_path, progress=reports.append)

    assert not reports
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("make_other", "other", "message"),
    [
        (lambda: L1Sae(64, 48), {}, "architecture='topk', and this training has .*'standard'"),
        (lambda: TopKSae(32, 48, 4), {}, "n_latents=64, and this training has n_latents=32"),
        (lambda: TopKSae(64, 48, 5), {}, "k=4, and this training has k=5"),
        (lambda: TopKSae(64, 48, 4), {"steps": 13}, "steps=12, and this training has steps=13"),
    ],
    ids=["architecture", "size", "k", "settings"],
)
def test_a_checkpoint_of_another_training(
    tmp_path: Path, make_other: Callable[[], Sae], other: dict[str, Any], message: str
) -> None:
    """The first difference is named, and nothing is overwritten."""
    train_sae(TopKSae(64, 48, 4), Synthetic(), few(), out=tmp_path)
    before = contents(tmp_path)

    with pytest.raises(OtherCheckpoint, match=message):
        train_sae(make_other(), Synthetic(), few(**other), out=tmp_path)
    assert contents(tmp_path) == before


def test_an_sae_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """One without a checkpoint, as SAELens writes it."""
    train_sae(TopKSae(64, 48, 4), Synthetic(), few(), out=tmp_path)
    tmp_path.joinpath("checkpoint.safetensors").unlink()
    before = contents(tmp_path)

    with pytest.raises(SaeExists, match="holds an SAE already; give another folder"):
        train_sae(TopKSae(64, 48, 4), Synthetic(), few(), out=tmp_path)
    assert contents(tmp_path) == before


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    """It is said, and left as it is."""
    tmp_path.joinpath("checkpoint.safetensors").write_bytes(b"half")

    with pytest.raises(UnreadableSae, match="it is no whole checkpoint"):
        train_sae(TopKSae(64, 48, 4), Synthetic(), few(), out=tmp_path)
    assert contents(tmp_path) == {"checkpoint.safetensors": b"half"}


def respoken(path: Path, **facts: Any) -> None:
    """Have a checkpoint say something else of itself."""
    with safe_open(path, framework="pt") as opened:
        said = json.loads(opened.metadata()["tenterhook_sae"])
    save_file(load_file(path), path, metadata={"tenterhook_sae": json.dumps({**said, **facts})})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"step": -1}, "it is no whole checkpoint: .*step"),
        ({"step": "3"}, "it is no whole checkpoint: .*step"),
        ({"scale": -1.0}, "it is no whole checkpoint: invalid value"),
        ({"scale": math.nan}, "it is no whole checkpoint: its state: NaN is no number"),
        ({"identity": []}, "it is no whole checkpoint: .*identity"),
        ({"history": [1]}, "it is no whole checkpoint: .*history"),
        ({"batches": {}}, r"does not say where its batches stand \(KeyError: 'count'\)"),
    ],
)
def test_a_checkpoint_that_says_what_cannot_be(
    tmp_path: Path, facts: dict[str, Any], message: str
) -> None:
    """It is said, and the SAE is as it was."""
    train_sae(seeded(), Synthetic(), few(), out=tmp_path)
    respoken(tmp_path / "checkpoint.safetensors", **facts)
    trainer = Trainer(seeded(), Synthetic(), few())

    with pytest.raises(UnreadableSae, match=message):
        trainer.load_checkpoint(tmp_path)
    assert torch.equal(trainer.sae.W_dec, seeded().W_dec)


@pytest.mark.parametrize("name", ["sae.W_dec", "idle", "optimizer.b_enc.exp_avg", "x"])
def test_a_checkpoint_of_other_tensors(tmp_path: Path, name: str) -> None:
    """Each must be there, of its shape, and none else."""
    train_sae(seeded(), Synthetic(), few(), out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    save_file({**load_file(path), name: torch.ones(3)}, path, metadata=metadata)

    with pytest.raises(UnreadableSae, match=f"{name} is not of the shape and dtype"):
        train_sae(seeded(), Synthetic(), few(), out=tmp_path)


def test_states_of_batches_that_cannot_be(loaded: Any, run: Run) -> None:
    """Of a model and of a run."""
    live, stored = ModelBatches(loaded, LAYER, ["a b"]), RunBatches(run, LAYER)
    for state in ({}, {"epoch": -1, "group": 0, "batch": 0}, {"epoch": "x"}):
        with pytest.raises(BadSetting, match=r"state\['epoch'\]=.* must be a whole number, 0"):
            live.load_state_dict(state)
    with pytest.raises(OtherLoader, match="other batches"):
        stored.load_state_dict({"epoch": 0})


def test_nan_in_the_data(tmp_path: Path) -> None:
    """How many rows, and of what; the latest checkpoint stays."""
    data = Synthetic()
    data.spoiled = 7
    with pytest.raises(NotFinite, match=r"^Batch \d+ of layer 'synthetic': 1 of 256 rows hold NaN"):
        train_sae(TopKSae(64, 48, 4), data, few(), out=tmp_path)

    assert list(contents(tmp_path)) == ["checkpoint.safetensors"]
    with pytest.raises(NotFinite, match="The rows to evaluate with: 1 of 2 rows"):
        evaluate_rows(TopKSae(64, 2, 4), torch.tensor([[1.0, 2.0], [1.0, torch.inf]]))


def test_a_wrong_width_names_both_and_the_layer() -> None:
    """Before the first step."""
    with pytest.raises(WrongWidth, match="takes 40 inputs, and layer 'synthetic' has 48 features"):
        Trainer(TopKSae(64, 40, 4), Synthetic())


def test_progress_says_what_it_measures() -> None:
    """At the steps that were asked for, and at the last."""
    reports: list[TrainingProgress] = []
    sae = TopKSae(64, 48, 4)
    train_sae(sae, Synthetic(), few(log_every=5), progress=reports.append)

    assert [each.step for each in reports] == [5, 10, 12]
    last = reports[-1]
    assert last.l0 <= 4
    assert 0 <= last.dead_share <= 1
    assert last.explained_variance <= 1
    assert last.rows_per_second > 0
    assert last.seconds_left == 0
    assert sae.about["steps"] == 12
    assert sae.about["training"] == attrs.asdict(few(log_every=5))


def test_a_step_is_what_adamw_does_to_the_loss() -> None:
    """Written out with torch alone: scaled activations, mean squared error, clipping, schedule."""
    torch.manual_seed(0)
    data, sae = Synthetic(), L1Sae(64, 48)
    chosen = TrainingSettings(steps=10, warm_up=0.5, sparsity=0, aux=0, normalize_decoder=False)
    batch = next(iter(data))
    weights = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    Trainer(sae, data, chosen).train_batch(batch)

    scale = 1 / batch.square().mean().sqrt()
    x = batch * scale
    w = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    with torch.no_grad():
        w["b_dec"].copy_(x.mean(0))
    out = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]
    optimizer = torch.optim.AdamW(w.values(), lr=1e-3 / 5, weight_decay=0)
    (x - out).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
    optimizer.step()
    for name, tensor in sae.state_dict().items():
        torch.testing.assert_close(tensor, w[name].detach(), atol=1e-5, rtol=1e-5)


def test_dead_latents_come_alive() -> None:
    """With AuxK, and with resampling, fewer stay dead than with neither."""

    def dead(sae: Sae, **more: Any) -> float:
        with torch.no_grad():
            sae.b_enc[:200] = -2
        none = {"aux": 0.0, "steps": 150, "dead_after": 1000, "learning_rate": 3e-3}
        trainer = Trainer(sae, Synthetic(), TrainingSettings(**{**none, **more}))
        trainer.run()
        share = trainer.history[-1]["dead_share"]
        assert share is not None
        return share

    torch.manual_seed(0)
    top, relu = TopKSae(256, 48, 2), L1Sae(256, 48)
    without = dead(copy.deepcopy(top))
    assert without > 0.6
    assert dead(top, aux=1 / 4) < without - 0.1
    without = dead(copy.deepcopy(relu))
    assert without > 0.6
    assert dead(relu, resample_every=20) < without - 0.1


def unseen() -> Tensor:
    """Rows that no training of so few steps came to."""
    data = Synthetic(batch=4096)
    data.load_state_dict({"count": 10**6})
    return next(iter(data))


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize(
    ("bias", "more"),
    [(-2.0, {"aux": 1 / 32}), (-5.0, {"resample_every": 50})],
    ids=["AuxK", "resampling"],
)
@pytest.mark.parametrize("make_sae", [TopKSae, BatchTopKSae])
def test_what_dead_latents_come_to_is_of_use(
    make_sae: Callable[..., Sae], bias: float, more: dict[str, Any]
) -> None:
    """Two of three latents begin far below 0: with more of them alive, more is explained."""
    torch.manual_seed(0)
    sae = make_sae(96, 48, 4)
    with torch.no_grad():
        sae.b_enc[:64] = bias
    without = copy.deepcopy(sae)
    chosen: dict[str, Any] = {"steps": 500, "learning_rate": 5e-3, "dead_after": 5000, "aux": 0.0}
    train_sae(without, Synthetic(), TrainingSettings(**chosen))
    train_sae(sae, Synthetic(), TrainingSettings(**{**chosen, **more}))

    rows = unseen()
    before, after = evaluate_rows(without, rows), evaluate_rows(sae, rows)
    assert before.unused_share > 0.6
    if "resample_every" in more:
        assert after.unused_share < 0.2
        assert after.explained_variance > before.explained_variance + 0.2
    else:
        assert after.unused_share < before.unused_share - 0.1
        assert after.explained_variance > before.explained_variance


@pytest.mark.parametrize("rows", [1, 256])
def test_what_is_made_anew_has_a_direction(rows: int) -> None:
    """Where the rows are all the same, and nothing is missed of them, latents stay as they are."""

    class Same(Synthetic):
        def __iter__(self) -> Iterator[Tensor]:
            while True:
                yield torch.full((rows, self.width), 0.25)

    sae = TopKSae(96, 48, 4)
    train_sae(sae, Same(), few(dead_after=1, resample_every=1))

    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(96))


def test_what_is_made_anew_has_a_threshold_to_pass() -> None:
    """A latent may be dead for its threshold alone; like its encoder it follows those alive."""
    torch.manual_seed(0)
    sae = JumpReLUSae(96, 48)
    with torch.no_grad():
        sae.threshold[:64] = 20
    chosen: dict[str, Any] = {"steps": 300, "learning_rate": 5e-3, "dead_after": 5000, "aux": 0.0}
    without = copy.deepcopy(sae)
    train_sae(without, Synthetic(), TrainingSettings(**chosen))
    train_sae(sae, Synthetic(), TrainingSettings(**chosen, resample_every=50))

    assert evaluate_rows(without, unseen()).unused_share > 0.6
    assert evaluate_rows(sae, unseen()).unused_share < 0.2
    assert float(sae.threshold.detach().max()) < 1


@pytest.mark.parametrize(
    "make_sae",
    [
        lambda: TopKSae(64, 48, 4),
        lambda: BatchTopKSae(64, 48, 4),
        lambda: JumpReLUSae(64, 48),
        lambda: L1Sae(64, 48),
    ],
    ids=["topk", "batchtopk", "jumprelu", "l1"],
)
def test_autocast(make_sae: Callable[[], Sae]) -> None:
    """In bfloat16 it learns, and weights stay what they were."""
    torch.manual_seed(0)
    sae = make_sae()
    train_sae(sae, Synthetic(), few(autocast=True, resample_every=None, steps=40))

    assert sae.dtype is torch.float32
    assert evaluate_rows(sae, next(iter(Synthetic()))).explained_variance > 0.1


def test_float16_is_not_trained_in() -> None:
    """AdamW's smallest numbers are 0 in it, and weights would be NaN."""
    with pytest.raises(BadSetting, match=r"dtype=torch.float16 must be .*float32.*autocast"):
        Trainer(TopKSae(96, 48, 4, dtype=torch.float16), Synthetic())


def test_a_first_batch_of_zeros() -> None:
    """It says nothing of how large activations are; those that follow are learned from."""

    class Late(Synthetic):
        def __iter__(self) -> Iterator[Tensor]:
            yield torch.zeros(4, self.width)
            yield from super().__iter__()

    torch.manual_seed(0)
    sae = train_sae(TopKSae(96, 48, 4), Late(), TrainingSettings(steps=100, learning_rate=5e-3))

    assert evaluate_rows(sae, unseen()).explained_variance > 0.1


COUNT, AMOUNT = "a whole number, 1 or more", "a number, 0 or more"
SHARE = "a share, between 0 and 1"

FIELDS = {
    "steps": COUNT,
    "learning_rate": "a number above 0",
    "warm_up": SHARE,
    "decay": SHARE,
    "beta1": "0 or more, and below 1",
    "beta2": "0 or more, and below 1",
    "weight_decay": AMOUNT,
    "sparsity": AMOUNT,
    "sparsity_warm_up": SHARE,
    "normalize_decoder": "True or False",
    "aux": AMOUNT,
    "aux_k": COUNT,
    "dead_after": COUNT,
    "resample_every": COUNT,
    "clip": "a number above 0",
    "autocast": "True or False",
    "seed": "a whole number, 0 or more",
    "log_every": COUNT,
    "checkpoint_every": COUNT,
}
"""Every setting, and what it has to be."""

BAD_NUMBERS = [float("nan"), float("inf"), -float("inf"), -1, 10**400, 1e300, "1", b"", [1], 1j]


def test_every_setting_is_checked() -> None:
    """The table has all of them."""
    assert list(FIELDS) == [field.name for field in attrs.fields(TrainingSettings)]


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("name", FIELDS)
def test_settings_that_cannot_be(name: str, value: Any) -> None:
    """NaN, infinite, negative, huge, no number: name, value, and what is valid."""
    said = f"{name}={value!r} must be {FIELDS[name]}"
    with pytest.raises(BadSetting, match=re.escape(said)):
        TrainingSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, COUNT),
        ("steps", 2.5, COUNT),
        ("steps", True, COUNT),
        ("steps", 10**13, "a whole number, 1 or more and 1,000,000,000,000 at most"),
        ("learning_rate", 0, "a number above 0"),
        ("learning_rate", 1e12, "a number above 0 and 1,000,000,000.0 at most"),
        ("warm_up", 1.5, SHARE),
        ("beta1", 1, "0 or more, and below 1"),
        ("clip", 0, "a number above 0"),
        ("aux_k", 0, COUNT),
        ("seed", 2**63, "a whole number, 0 or more and"),
    ],
)
def test_settings_at_the_ends(name: str, value: Any, message: str) -> None:
    """Just beyond what they may be."""
    with pytest.raises(BadSetting, match=f"{name}={value} must be {message}"):
        TrainingSettings(**{name: value})


def test_the_largest_seed_trains() -> None:
    """What is drawn follows from it."""
    sae = TopKSae(64, 48, 4)
    train_sae(sae, Synthetic(), few(seed=2**63 - 1, dead_after=1, resample_every=1))
    assert all(tensor.isfinite().all() for tensor in sae.state_dict().values())


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda value: repr(value)[:9])
def test_sizes_of_batches_that_cannot_be(loaded: Any, run: Run, value: Any) -> None:
    """Of a run, of a model, of an evaluation, of examples."""
    sae = TopKSae(16, 128, 4)
    makes: list[tuple[str, Callable[..., Any]]] = [
        *((name, lambda **more: RunBatches(run, LAYER, **more)) for name in RUN_SIZES),
        *((name, lambda **more: ModelBatches(loaded, LAYER, ["a"], **more)) for name in SIZES),
        ("batch_size", lambda **more: evaluate_in_model(sae, loaded, LAYER, ["a b"], **more)),
        ("batch_size", lambda **more: find_examples(sae, loaded, 0, ["a"], layer=LAYER, **more)),
        ("top_k", lambda **more: find_examples(sae, loaded, 0, ["a"], layer=LAYER, **more)),
        ("count", lambda **more: strongest_latents(sae, torch.ones(128), **more)),
    ]
    for name, make in makes:
        said = f"{name}={value!r} must be a whole number, "
        with pytest.raises(BadSetting, match=re.escape(said)):
            make(**{name: value})


RUN_SIZES = ("batch_size", "buffer_rows", "seed")
SIZES = (*RUN_SIZES, "documents_at_once")


# --- rows of a run, and of a model


@pytest.fixture(scope="module")
def run(loaded: Any) -> Run:
    """A layer of the small model over some of its text."""
    store = MemoryStore()
    texts = tenterhook_tiny.read("sample").texts[:150]
    return store.run(save_activations(loaded, [LAYER], texts, store, run_name="r"))


@pytest.mark.parametrize("batch_size", [100, 1000])
def test_batches_of_a_run(run: Run, batch_size: int) -> None:
    """An epoch has each row once at most, in another order each time, none that is held out."""
    stop = 5000
    batches = RunBatches(run, LAYER, batch_size=batch_size, rows=slice(0, stop), buffer_rows=2048)
    epochs: list[list[bytes]] = [[], []]
    for batch in batches:
        epoch = batches.state_dict()["epoch"]
        if epoch == 2:
            break
        assert batch.shape == (batch_size, 128)
        epochs[epoch] += [row.tobytes() for row in batch.numpy()]

    there = [row.tobytes() for row in run[LAYER][:stop].numpy()]
    for each in epochs:
        assert len(each) > 0.7 * stop
        assert Counter(each) <= Counter(there)
    assert epochs[0][:50] != epochs[1][:50]
    places = [there.index(row) for row in epochs[0][:50]]
    assert places != sorted(places)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 3), taken=st.integers(0, 30), size=st.sampled_from([64, 300, 9000]))
def test_batches_of_a_run_resume(run: Run, seed: int, taken: int, size: int) -> None:
    """Where the state says, and by the seed alone."""

    def batches() -> RunBatches:
        return RunBatches(
            run, LAYER, batch_size=size, seed=seed, rows=slice(0, 3000), buffer_rows=1024
        )

    first = batches()
    all_of = iter(first)
    list(islice(all_of, taken))
    state = first.state_dict()
    rest = list(islice(all_of, 5))
    other = batches()
    other.load_state_dict(state)
    for found, expected in zip(islice(iter(other), 5), rest, strict=True):
        assert torch.equal(found, expected)


def test_a_run_without_rows(run: Run) -> None:
    """It is said before anything is trained."""
    with pytest.raises(ValueError, match="batch_size"):
        RunBatches(run, LAYER, batch_size=0)
    said = r"The part 7:7 of the [\d,]+ rows of layer '.*' of run 'r' holds no rows"
    with pytest.raises(NoRows, match=said):
        RunBatches(run, LAYER, rows=slice(7, 7))


def test_a_run_that_is_not_finished(loaded: Any) -> None:
    """With no rows yet it is an error that says how to have some."""

    def stop(_: Any) -> None:
        raise Stopped

    store = MemoryStore()
    texts = tenterhook_tiny.read("sample").texts[:20]
    with pytest.raises(Stopped):
        save_activations(loaded, [LAYER], texts, store, run_name="begun", progress=stop)

    said = r"of run 'begun', which is not finished, holds no rows\. Give its capture again"
    with pytest.raises(NoRows, match=said):
        RunBatches(store.run("begun"), LAYER)


@pytest.mark.parametrize("tokens", [[0], None], ids=["one row", "less than a batch"])
def test_a_run_of_few_rows(
    loaded: Any, make: Callable[..., Sae], tmp_path: Path, tokens: Any
) -> None:
    """It is trained on, saved, and what one row does not say is no number."""
    store = MemoryStore()
    save_activations(loaded, [LAYER], ["The LORD"], store, run_name="few", tokens=tokens)
    rows = store.run("few")[LAYER]
    batches = RunBatches(store.run("few"), LAYER, batch_size=64)
    chosen = TrainingSettings(steps=4, log_every=1, dead_after=1, resample_every=2)
    sae = train_sae(make(8, 128), batches, chosen, out=tmp_path)

    assert all(tensor.isfinite().all() for tensor in load_sae(tmp_path).state_dict().values())
    history = json.loads(tmp_path.joinpath("training.json").read_text())["history"]
    assert len(history) == 4
    assert (history[-1]["explained_variance"] is None) == (len(rows) == 1)
    assert math.isnan(evaluate_rows(sae, rows[:]).explained_variance) == (len(rows) == 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([torch.ones(2, 48), torch.zeros(0, 48)], "Batch 2 of layer 'synthetic' holds no rows"),
        ([torch.ones(2, 48)], "Batch 2 of layer 'synthetic' holds no rows.*have no end"),
    ],
    ids=["an empty one", "no more"],
)
def test_batches_that_hold_nothing(given: list[Tensor], message: str, tmp_path: Path) -> None:
    """They are an error that counts them, and nothing is written."""

    class Few(Synthetic):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(given)

    with pytest.raises(NoRows, match=message):
        train_sae(TopKSae(96, 48, 4), Few(), TrainingSettings(steps=9), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_live_batches_are_those_of_the_model(loaded: Any) -> None:
    """Each real token once, and the same again by seed and state."""
    texts = tenterhook_tiny.read("sample").texts[:12]

    def batches() -> ModelBatches:
        return ModelBatches(loaded, "layer_1", texts, batch_size=64, buffer_rows=256)

    first = batches()
    tokens = sum(map(len, loaded.token_ids(texts)))
    assert len(torch.cat(list(first.one_epoch()))) == tokens
    stream = iter(first)
    list(islice(stream, 7))
    state = first.state_dict()
    rest = list(islice(stream, 3))
    other = batches()
    other.load_state_dict(state)
    for found, expected in zip(islice(iter(other), 3), rest, strict=True):
        assert torch.equal(found, expected)
    assert first.width == 128
    assert not len(loaded.layers)


def test_an_sae_of_the_small_model(loaded: Any, run: Run) -> None:
    """Trained briefly on a run, it explains rows that it never saw, and the model can go on.

    The page on sparse autoencoders trains longer; with k=32 it must explain 0.85 of the variance.
    """
    torch.manual_seed(0)
    stop = len(run) * 9 // 10
    batches = RunBatches(run, LAYER, batch_size=512, rows=slice(0, stop))
    sae = TopKSae(512, 128, 32)
    chosen = TrainingSettings(steps=150, learning_rate=4e-3, dead_after=20_000)
    train_sae(sae, batches, chosen)

    held_out = evaluate_rows(sae, run[LAYER][stop:])
    assert held_out.explained_variance >= 0.75
    assert held_out.rows == len(run) - stop
    assert held_out.l0 <= 32
    texts = tenterhook_tiny.read("sample").texts[150:170]
    found = evaluate_in_model(sae, loaded, LAYER, texts)
    assert found.cross_entropy < found.cross_entropy_reconstructed < found.cross_entropy_ablated
    assert found.cross_entropy_recovered > 0.8
    assert not len(loaded.layers)


def test_cross_entropy_is_the_models_own(loaded: Any) -> None:
    """Against the loss that transformers computes; and a perfect SAE costs nothing."""
    text = "In the beginning God created the heaven and the earth."
    identity = L1Sae(256, 128)
    with torch.no_grad():
        eye = torch.eye(128)
        identity.W_enc.copy_(torch.cat([eye, -eye], 1))
        identity.W_dec.copy_(torch.cat([eye, -eye], 0))
    found = evaluate_in_model(identity, loaded, LAYER, [text, text + " And"])

    losses, counts = [], []
    for each in (text, text + " And"):
        ids = torch.tensor(loaded.token_ids([each]))
        losses.append(float(loaded.module(ids, labels=ids).loss.detach()))
        counts.append(ids.shape[1] - 1)
    mean = sum(x * n for x, n in zip(losses, counts, strict=True)) / sum(counts)
    assert found.tokens == sum(counts)
    assert found.cross_entropy == pytest.approx(mean, rel=1e-4)
    assert found.cross_entropy_recovered == pytest.approx(1, abs=1e-4)
    with pytest.raises(NoRows, match="two tokens to a document are needed"):
        evaluate_in_model(identity, loaded, LAYER, [""])


def test_measures_of_rows() -> None:
    """Against their definitions."""
    torch.manual_seed(0)
    sae = TopKSae(40, 8, 3)
    x = torch.randn(100, 8) + 2
    found = evaluate_rows(sae, [x[:30], x[30:]])

    y = sae(x).detach()
    spread = (x - x.mean(0)).square().sum()
    assert found.rows == 100
    assert found.mean_squared_error == pytest.approx(float((x - y).square().mean()), rel=1e-5)
    assert found.explained_variance == pytest.approx(
        float(1 - (x - y).square().sum() / spread), rel=1e-4
    )
    assert found.cosine == pytest.approx(
        float(torch.nn.functional.cosine_similarity(x, y).mean()), rel=1e-5
    )
    assert found.l0 == float((sae.encode(x) != 0).sum() / 100)
    with pytest.raises(NoRows, match="holds no rows"):
        evaluate_rows(sae, [])
    with pytest.raises(WrongWidth, match="takes 8 inputs"):
        evaluate_rows(sae, torch.randn(3, 9))


def test_measures_go_to_loggers() -> None:
    """Each under its step, by names of its own; an object with `log` will do."""

    class Curves:
        def __init__(self) -> None:
            self.seen: list[tuple[int, dict[str, Any]]] = []

        def log(self, values: dict[str, Any], step: int) -> None:
            self.seen.append((step, values))

    one, other, reports = Curves(), Curves(), list[TrainingProgress]()
    log = log_to(one, other, prefix="mine/")

    def progress(report: TrainingProgress) -> None:
        reports.append(report)
        log(report)

    train_sae(TopKSae(64, 48, 4), Synthetic(), few(log_every=5), progress=progress)

    assert [step for step, _ in one.seen] == [each.step for each in reports]
    assert [values["mine/loss"] for _, values in one.seen] == [each.loss for each in reports]
    assert "mine/dead_share" in one.seen[0][1]
    assert "mine/step" not in one.seen[0][1]
    assert other.seen == one.seen
