"""Transcoders against the papers, as hooks, from files, and on a sparse MLP that is known."""

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tenterhook import assert_clean, attach
from tenterhook.errors import UnknownLayer
from tenterhook.hooks import HookError, HookType
from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_sae import (
    BadSetting,
    ModelBatches,
    NotFinite,
    NotRead,
    OtherCheckpoint,
    RunBatches,
    SkipTranscoder,
    Trainer,
    TrainingSettings,
    Transcoder,
    UnreadableSae,
    WrongParts,
    WrongWidth,
    evaluate_in_model,
    evaluate_rows,
    load_sae,
    save_sae,
    train_sae,
)
from tenterhook_store import MemoryStore

MLP = "transformer.h.1.mlp"
TEXTS = ["In the beginning God created the heaven and the earth.", "And it came to pass,"]
both = pytest.mark.parametrize("kind", [Transcoder, SkipTranscoder])


def randomized(made: Transcoder) -> Transcoder:
    """Random weights everywhere."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def by_the_paper(made: Transcoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and output, one row at a time."""
    w = {name: tensor.detach() for name, tensor in made.state_dict().items()}
    latents, output = [], []
    for row in x:
        z = torch.stack([row @ w["W_enc"][:, i] + w["b_enc"][i] for i in range(made.n_latents)])
        z = z.clamp_min(0)
        if made.k is not None:
            z[z < z.sort().values[-made.k]] = 0
        y = w["b_dec"].clone()
        for i in range(made.n_latents):
            y += z[i] * w["W_dec"][i]
        if "W_skip" in w:
            y += w["W_skip"] @ row
        latents.append(z)
        output.append(y)
    return torch.stack(latents), torch.stack(output)


@both
@pytest.mark.parametrize("k", [None, 3])
def test_it_is_the_papers(kind: type[Transcoder], k: int | None) -> None:
    """Of another width out than in, dense and sparse."""
    torch.manual_seed(0)
    made = randomized(kind(20, 6, 9, k))
    x = torch.randn(5, 6)
    latents, output = by_the_paper(made, x)

    torch.testing.assert_close(made.encode(x), latents)
    torch.testing.assert_close(made.encode_sparse(x).to_dense(), latents)
    torch.testing.assert_close(made(x), output)
    made.normalize_decoder()
    penalty = latents.sum(1).mean() if k is None else torch.tensor(0.0)
    torch.testing.assert_close(made.sparsity_loss(latents, made.pre_activations(x)), penalty)


@both
def test_rescaling_is_exact(kind: type[Transcoder]) -> None:
    """Input and output each by a factor of its own."""
    torch.manual_seed(0)
    made, x = randomized(kind(20, 6, 9, 3)), torch.randn(5, 6)
    before = made(x)
    made.rescale_parts([4.0, 0.25])

    torch.testing.assert_close(made(4 * x), 0.25 * before)


@both
def test_elements(kind: type[Transcoder]) -> None:
    """As many as it has."""
    sizes: dict[str, Any] = {"n_latents": 11, "n_inputs": 5, "n_outputs": 7}
    assert kind.elements(sizes) == sum(each.numel() for each in kind(**sizes).parameters())
    assert (kind.width(sizes), kind.width({"n_latents": 3, "n_inputs": 5})) == (7, 5)


# --- at a layer


def mlp_of(lm: Any) -> tuple[Tensor, Tensor]:
    """What goes into the MLP, and what comes out."""
    hooked = attach(lm.module)
    with hooked.capture(MLP, inputs=True) as given, hooked.capture(MLP) as returned:
        lm.inference.execute_inference(TEXTS)
    return given.last(MLP), returned.last(MLP)


def run(lm: Any) -> Tensor:
    """The logits of the texts."""
    logits: Tensor = lm.inference.execute_inference(TEXTS)[0].logits
    return logits


@pytest.mark.parametrize("reads", [None, "transformer.h.1.ln_2", f"{MLP}:input"])
def test_it_encodes_the_input(lm: Any, reads: str | None) -> None:
    """Its own layer's, or what the layer before gives; the model's output stays, bit for bit."""
    torch.manual_seed(0)
    made = Transcoder(64, 128, k=4, reads=reads)
    given, _ = mlp_of(lm)
    plain = run(lm)
    lm.attach_sae(made, MLP)

    assert torch.equal(run(lm), plain)
    assert made.latents is not None
    torch.testing.assert_close(made.latents, made.encode(given))
    lm.detach_sae()
    assert_clean(lm.module)
    assert not lm.module._forward_pre_hooks
    assert not lm.module.get_submodule("transformer.h.1.ln_2")._forward_hooks


@both
def test_it_takes_the_place_of_the_mlp(lm: Any, kind: type[Transcoder]) -> None:
    """What comes after sees its output."""
    torch.manual_seed(0)
    made = kind(64, 128, k=4)
    made.mode = "reconstruct"
    if isinstance(made, SkipTranscoder):
        torch.nn.init.normal_(made.W_skip, std=0.1)
    given, _ = mlp_of(lm)
    with attach(lm.module).steer(MLP, lambda y: made(given)):
        expected = run(lm)
    lm.attach_sae(made, MLP)

    torch.testing.assert_close(run(lm), expected)


def test_a_latent_is_edited(lm: Any) -> None:
    """What it misses of the MLP stays: only the direction of the latent is added."""
    torch.manual_seed(0)
    made = SkipTranscoder(64, 128, k=4)
    given, returned = mlp_of(lm)
    latents = made.encode(given)
    latent = int(latents[0, -1].argmax())
    change = -latents[..., latent, None] * made.W_dec[latent]
    lm.attach_sae(made, MLP)

    with made.concepts.manipulated({latent: 0.0}), attach(lm.module).capture(MLP) as captured:
        run(lm)
    torch.testing.assert_close(captured.last(MLP), (returned + change).detach())


def test_layers_it_does_not_fit(lm: Any) -> None:
    """Both numbers and the layer; a side of the layer, and a layer, that are not there."""
    lm.attach_sae(Transcoder(64, 128, 96), MLP)
    with pytest.raises(HookError, match=rf"gives 96 outputs, and layer '{MLP}' returns 128") as got:
        run(lm)
    assert isinstance(got.value.__cause__, WrongWidth)
    lm.detach_sae()

    lm.attach_sae(Transcoder(64, 96, 128), MLP)
    with pytest.raises(HookError, match=rf"takes 96 inputs, and layer '{MLP}' has 128"):
        run(lm)
    lm.detach_sae()

    with pytest.raises(BadSetting, match=r"hook_type=.* must be HookType\.FORWARD"):
        lm.layers.register_hook(MLP, Transcoder(64, 128), hook_type=HookType.PRE_FORWARD)
    with pytest.raises(UnknownLayer, match="nowhere"):
        lm.layers.register_hook(MLP, Transcoder(64, 128, reads="nowhere"))

    lm.attach_sae(Transcoder(64, 128, reads="transformer.h.2"), MLP)
    with pytest.raises(HookError, match=r"'transformer\.h\.2' did not run before layer") as missed:
        run(lm)
    assert isinstance(missed.value.__cause__, NotRead)


def test_a_copy_is_registered_nowhere(lm: Any) -> None:
    """And works elsewhere."""
    torch.manual_seed(0)
    made = Transcoder(64, 128, k=4, reads="transformer.h.1.ln_2")
    lm.attach_sae(made, MLP)
    others = [copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
    run(lm)
    lm.detach_sae()
    for other in others:
        lm.attach_sae(other, MLP)
        run(lm)
        assert made.latents is not None
        assert torch.equal(other.latents, made.latents)
        lm.detach_sae()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transcoder(8, 4, 0), r"n_outputs=0 must be a whole number, 1 or more"),
        (lambda: Transcoder(8, 4, float("nan")), r"n_outputs=nan must be a whole number"),  # type: ignore[arg-type]
        (lambda: Transcoder(8, 4, k=9), r"k=9 must be a number of latents, of which there are 8"),
        (lambda: Transcoder(8, 4, k=1.5), r"k=1.5 must be a whole number"),  # type: ignore[arg-type]
        (lambda: Transcoder(8, 4, reads=""), r"reads='' must be the name of a layer"),
        (lambda: Transcoder(8, 4, reads=3), r"reads=3 must be the name of a layer"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be(make: Any, message: str) -> None:
    """The value, and what is valid."""
    with pytest.raises(BadSetting, match=message):
        make()


# --- files


@both
@pytest.mark.parametrize("k", [None, 3])
def test_round_trip(tmp_path: Path, kind: type[Transcoder], k: int | None) -> None:
    """Every bit; SAELens's layout where it has one, and another architecture where it has none."""
    made = randomized(kind(20, 6, 9, k, reads="ln"))
    made.about = {"layer": "mlp"}
    save_sae(made, tmp_path)
    other = load_sae(tmp_path)

    assert type(other) is kind
    assert other.settings() == made.settings()
    for name, tensor in made.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    config = json.loads(tmp_path.joinpath("cfg.json").read_text())
    assert config["architecture"] == ("topk_" if k else "") + kind.architecture
    assert (config["d_in"], config["d_sae"], config["d_out"]) == (6, 20, 9)
    assert not config["apply_b_dec_to_input"]
    hooks = config["metadata"]["hook_name"], config["metadata"]["hook_name_out"]
    assert hooks == ("ln", "mlp")


@both
def test_a_file_of_sae_lens(tmp_path: Path, kind: type[Transcoder]) -> None:
    """As it writes them, without a file of ours."""
    tensors = {
        "W_enc": torch.randn(6, 20),
        "b_enc": torch.randn(20),
        "W_dec": torch.randn(20, 9),
        "b_dec": torch.randn(9),
    }
    if kind is SkipTranscoder:
        tensors["W_skip"] = torch.randn(9, 6)
    config = {
        "architecture": kind.architecture,
        "d_in": 6,
        "d_sae": 20,
        "d_out": 9,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"hook_name": "ln", "hook_name_out": "blocks.1.hook_mlp_out"},
    }
    tmp_path.joinpath("cfg.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "sae_weights.safetensors")

    made = load_sae(tmp_path)
    x = torch.randn(4, 6)
    expected = (x @ tensors["W_enc"] + tensors["b_enc"]).relu() @ tensors["W_dec"]
    expected = expected + tensors["b_dec"]
    if kind is SkipTranscoder:
        expected = expected + x @ tensors["W_skip"].T
    torch.testing.assert_close(made(x), expected)
    assert made.about["layer"] == "blocks.1.hook_mlp_out"

    changed: list[tuple[dict[str, Any], str]] = [
        ({"d_out": 8}, r"holds .*W_dec \[20, 9\].* has .*W_dec \[20, 8\]"),
        ({"d_out": None}, r"has no whole number 'd_out'"),
        ({"d_out": "9"}, r"has no whole number 'd_out'"),
        ({"apply_b_dec_to_input": True}, "a transcoder takes nothing off its input"),
    ]
    for wrong, message in changed:
        tmp_path.joinpath("cfg.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(UnreadableSae, match=message):
            load_sae(tmp_path)


# --- training


class SparseMLP:
    """Rows of an MLP that is known: what goes in, and what comes out, side by side."""

    def __init__(self, neurons: int = 64, inputs: int = 48, outputs: int = 32) -> None:
        generator = torch.Generator().manual_seed(7)
        self.given = torch.randn(neurons, inputs, generator=generator)
        self.given /= self.given.norm(dim=1, keepdim=True)
        self.returned = torch.randn(neurons, outputs, generator=generator)
        self.returned /= self.returned.norm(dim=1, keepdim=True)
        self.widths, self.width = (inputs, outputs), inputs + outputs
        self.about: dict[str, Any] = {"layer": "mlp", "layers": ["mlp:input", "mlp"]}
        self._count = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            generator = torch.Generator().manual_seed(self._count)
            self._count += 1
            on = torch.rand(256, len(self.given), generator=generator) < 3 / len(self.given)
            features = on * (0.5 + torch.rand(256, len(self.given), generator=generator))
            x = 20 * features @ self.given
            y = (x @ self.given.T - 6).relu() / 40 @ self.returned
            yield torch.cat([x, y], 1)

    def state_dict(self) -> dict[str, Any]:
        """How many there were."""
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self._count = state["count"]


@pytest.mark.parametrize(
    ("kind", "k", "more"),
    [
        (Transcoder, 4, {}),
        (Transcoder, None, {"aux": 0.0, "resample_every": 100}),
    ],
    ids=["k largest", "L1"],
)
def test_it_recovers_a_sparse_mlp(kind: type[Transcoder], k: int | None, more: Any) -> None:
    """What its neurons write: the mean highest cosine is 0.9 at least."""
    torch.manual_seed(0)
    data, made = SparseMLP(), kind(96, 48, 32, k)
    train_sae(made, data, TrainingSettings(steps=400, learning_rate=1e-2, dead_after=5000, **more))

    cosines = data.returned @ torch.nn.functional.normalize(made.W_dec.detach(), dim=1).T
    assert float(cosines.max(1).values.mean()) >= 0.9
    assert evaluate_rows(made, next(iter(data))).explained_variance > 0.8


@both
def test_resumed_it_comes_to_the_same_numbers(tmp_path: Path, kind: type[Transcoder]) -> None:
    """To the bit, resampling included; as a whole training it works on rows as they are."""
    settings = TrainingSettings(steps=8, dead_after=200, resample_every=2, checkpoint_every=3)

    def made() -> Transcoder:
        torch.manual_seed(0)
        return kind(64, 48, 32, 4)

    whole = train_sae(made(), SparseMLP(), settings)
    trainer = Trainer(made(), SparseMLP(), settings)
    for _, batch in zip(range(5), trainer.batches, strict=False):
        trainer.train_batch(batch)
    trainer.save_checkpoint(tmp_path)
    resumed = train_sae(made(), SparseMLP(), settings, out=tmp_path)

    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    with pytest.raises(OtherCheckpoint, match="k=4"):
        train_sae(kind(64, 48, 32, 5), SparseMLP(), settings, out=tmp_path)


def test_batches_it_is_not_made_for() -> None:
    """Both widths and the layers; NaN with the batch it is in, before anything changes."""
    with pytest.raises(WrongParts, match=r"for layers of 32 and 48 features, .* of 48 and 32"):
        Trainer(Transcoder(64, 32, 48), SparseMLP())
    with pytest.raises(WrongParts, match="'mlp:input', 'mlp', of 48 and 32"):
        Trainer(Transcoder(64, 48, 48), SparseMLP())
    trainer = Trainer(Transcoder(64, 48, 32), SparseMLP())
    before = {name: tensor.clone() for name, tensor in trainer.sae.state_dict().items()}
    rows = next(iter(trainer.batches))
    rows[3, 60] = torch.nan
    with pytest.raises(NotFinite, match="Batch 1 of layer 'mlp': 1 of 256 rows hold NaN"):
        trainer.train_batch(rows)
    for name, tensor in trainer.sae.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(WrongWidth, match="takes 80 inputs, and what it was given has 24"):
        evaluate_rows(trainer.sae, rows[:, :24])


def test_of_an_mlp_of_the_small_model(loaded: Any) -> None:
    """Live and from a run alike; in its place the model predicts better than without the MLP."""
    texts = read_documents("tiny:sample").first(24)
    store = MemoryStore()
    run = store.run(save_activations(loaded, [f"{MLP}:input", MLP], texts, store))
    stored = RunBatches(run, [f"{MLP}:input", MLP], batch_size=256)
    live = ModelBatches(loaded, [f"{MLP}:input", MLP], texts, batch_size=256)
    assert stored.widths == live.widths == (128, 128)
    assert stored.about["layers"] == live.about["layers"] == [f"{MLP}:input", MLP]
    assert stored.about["layer"] == MLP
    torch.testing.assert_close(
        torch.cat([*stored.blocks(0, len(run))]).sum(0),
        torch.cat([*live.one_epoch()]).sum(0),
        rtol=1e-3,
        atol=1e-1,
    )
    for wrong, message in [([], r"layer=.* must be the name of a layer"), ([MLP, MLP], "each is")]:
        with pytest.raises(BadSetting, match=message):
            RunBatches(run, wrong)

    torch.manual_seed(0)
    made = SkipTranscoder(128, 128, k=16)
    train_sae(made, stored, TrainingSettings(steps=60, learning_rate=5e-3))
    found = evaluate_in_model(made, loaded, MLP, texts.first(8))
    assert found.cross_entropy_recovered > 0.5
    assert_clean(loaded.module)
