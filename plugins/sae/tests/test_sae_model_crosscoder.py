"""Crosscoders over two models: against the paper, on planted features, from aligned runs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook import assert_clean, attach
from tenterhook.hooks import HookError
from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_sae import (
    AlignedBatches,
    BadSetting,
    ModelCrosscoder,
    NoOther,
    NoRows,
    TopKSae,
    TrainingSettings,
    UnreadableSae,
    WrongParts,
    WrongWidth,
    compare_saes,
    evaluate_in_model,
    evaluate_rows,
    load_sae,
    save_sae,
    sparse_probing,
    train_sae,
)
from tenterhook_store import LocalStore, MemoryStore

TEXTS = ["In the beginning God created the heaven and the earth.", "And it came to pass,"]
LAYER = "transformer.h.1"


def randomized(made: ModelCrosscoder) -> ModelCrosscoder:
    """Random weights everywhere, decoders of two lengths that sum to 1."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    made.normalize_decoder()
    return made


def test_it_is_the_papers() -> None:
    """Sums over the models; of a batch the largest latents, weighed by their decoders' lengths."""
    torch.manual_seed(0)
    made = randomized(ModelCrosscoder(20, (6, 4), 2.5, ("base", "tuned")))
    base, tuned = torch.randn(8, 6), torch.randn(8, 4)
    x = torch.cat([base, tuned], 1)

    z = (base @ made.encoders["base"] + tuned @ made.encoders["tuned"] + made.b_enc).relu()
    lengths = sum(each.norm(dim=1) for each in made.decoders.values())
    weighed = (z * lengths).flatten()
    kept = weighed.new_zeros(weighed.shape).index_fill(0, weighed.topk(20).indices, 1)
    z = z * kept.reshape(z.shape)
    torch.testing.assert_close(made.training_latents(made.pre_activations(x)), z)
    decoded = [z @ each for each in made.decoders.values()]
    torch.testing.assert_close(made.decode(z), torch.cat(decoded, 1) + made.b_dec)


def test_whose_the_latents_are() -> None:
    """By the lengths of their decoders, in activations of one size."""
    made = ModelCrosscoder(4, (3, 2), 1)
    with torch.no_grad():
        made.W_dec.copy_(
            torch.tensor(
                [[1.0, 0, 0, 0, 0], [0, 0, 0, 2, 0], [0, 3, 0, 0, 3], [1, 0, 0, 0, 9]],
            )
        )
    assert made.relative_norms().tolist() == pytest.approx([0, 1, 0.5, 0.9])
    assert made.exclusive("a").tolist() == [0]
    assert made.exclusive("b", 0.85).tolist() == [1, 3]
    assert made.shared(0.85).tolist() == [2]
    before = made.relative_norms()
    latents, x = made.encode(torch.ones(2, 5)), torch.ones(2, 5)
    made.rescale_parts([4.0, 0.5])
    torch.testing.assert_close(made.relative_norms(), before)
    scaled = x * torch.tensor([4.0, 4, 4, 0.5, 0.5])
    torch.testing.assert_close(made.encode(scaled), latents)
    with pytest.raises(BadSetting, match="model='c' must be one of 'a', 'b'"):
        made.exclusive("c")
    with pytest.raises(BadSetting, match=r"share=0\.5 must be a number above a half"):
        made.shared(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelCrosscoder(8, (4,), 2), r"model_widths=\(4,\) must be the features of each"),
        (lambda: ModelCrosscoder(8, (4, 0), 2), r"model_widths=\[4, 0\] must be the features"),
        (lambda: ModelCrosscoder(8, (4, 4), 2, ("a", "a")), "models=.* must be the names of two"),
        (lambda: ModelCrosscoder(8, (4, 4), 2, "ab"), "models='ab' must be the names of two"),
        (lambda: ModelCrosscoder(8, (4, 4), 9), "k=9 must be a number of latents"),
        (lambda: ModelCrosscoder(8, (4, 4), 2, side="c"), "side='c' must be one of 'a', 'b'"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    """The value, and what is valid."""
    with pytest.raises(BadSetting, match=message):
        make()


def test_elements() -> None:
    """As many as it has."""
    sizes: dict[str, Any] = {"n_latents": 11, "model_widths": (5, 3), "k": 2}
    made = ModelCrosscoder(**sizes)
    assert ModelCrosscoder.elements(sizes) == sum(
        each.numel() for each in made.state_dict().values()
    )
    assert (ModelCrosscoder.width(sizes), ModelCrosscoder.width({**sizes, "side": "a"})) == (3, 5)


def test_files(tmp_path: Path) -> None:
    """Every bit comes back; a config of other sizes does not."""
    torch.manual_seed(0)
    made = randomized(ModelCrosscoder(20, (6, 4), 2.5, ("base", "tuned")))
    made.calibrate(torch.randn(50, 10))
    made.rescale_parts([2.0, 0.3])
    save_sae(made, tmp_path)
    other = load_sae(tmp_path)
    assert isinstance(other, ModelCrosscoder)
    assert other.settings() == made.settings()
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name].to(tensor), tensor, rtol=1e-6, atol=0)
    assert torch.equal(other.relative_norms(), made.relative_norms())
    config = json.loads(tmp_path.joinpath("cfg.json").read_text())
    changed: list[tuple[dict[str, Any], str]] = [
        ({"model_widths": [6, 5]}, r"model_widths=\[6, 5\] and d_in=10"),
        ({"model_widths": "ab"}, "no list of whole 'model_widths'"),
        ({"model_widths": [10]}, r"model_widths=\[10\] must be the features of each"),
        ({"models": ["a", "a"]}, r"models=\['a', 'a'\] must be"),
    ]
    for wrong, message in changed:
        tmp_path.joinpath("cfg.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(UnreadableSae, match=message):
            load_sae(tmp_path)


# --- as a hook


def test_it_stands_in_one_model_and_reads_the_other(lm: Any) -> None:
    """Its latents are of both; it changes the model that it stands in."""
    torch.manual_seed(0)
    made = ModelCrosscoder(64, (128, 128), 4, ("base", "tuned"), mode="reconstruct")
    with attach(lm.module).capture(LAYER) as captured:
        lm.inference.execute_inference(TEXTS)
    own = captured.last(LAYER)
    other = torch.randn_like(own)
    for side, x, part in (
        ("tuned", torch.cat([other, own], -1), slice(128, None)),
        ("base", torch.cat([own, other], -1), slice(None, 128)),
    ):
        made.side, made.beside = side, other
        lm.attach_sae(made, LAYER)
        with attach(lm.module).capture(LAYER) as changed:
            lm.inference.execute_inference(TEXTS)
        torch.testing.assert_close(made.latents, made.encode(x))
        torch.testing.assert_close(changed.last(LAYER), made(x)[..., part].detach())
        lm.detach_sae()
    assert_clean(lm.module)


@pytest.mark.parametrize(
    ("beside", "cause", "message"),
    [
        (None, NoOther, "nobody said what the model 'a' gave for the same tokens. Capture it"),
        (torch.zeros(2, 3, 128), BadSetting, r"beside=\[2, 3, 128\] must be of the same tokens"),
        (torch.zeros(2, 3, 5), WrongWidth, "takes 128 inputs, and .* has 5"),
    ],
    ids=["nothing", "other tokens", "other width"],
)
def test_what_stands_beside_is_checked(
    lm: Any, beside: Any, cause: type[Exception], message: str
) -> None:
    """Errors say what is missing, or does not fit."""
    made = ModelCrosscoder(64, (128, 128), 4)
    made.beside = beside
    lm.attach_sae(made, LAYER)
    with pytest.raises(HookError, match=message) as error:
        lm.inference.execute_inference(TEXTS)
    assert isinstance(error.value.__cause__, cause)


# --- training


class TwoModels:
    """Rows of two synthetic models of other widths and sizes: features of both, and of one each."""

    def __init__(self, features: int = 48) -> None:
        generator = torch.Generator().manual_seed(3)
        self.widths, self.width = (24, 20), 44
        directions = [torch.randn(features, each, generator=generator) for each in self.widths]
        self.directions = [each / each.norm(dim=1, keepdim=True) for each in directions]
        self.of_b_alone = torch.arange(features) < features // 4
        self.of_a_alone = (torch.arange(features) >= features // 4) & (
            torch.arange(features) < features // 2
        )
        self.directions[0][self.of_b_alone] = 0
        self.directions[1][self.of_a_alone] = 0
        self.about: dict[str, Any] = {"layer": "b", "layers": ["a", "b"]}
        self._count = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            generator = torch.Generator().manual_seed(self._count)
            self._count += 1
            on = torch.rand(256, len(self.of_b_alone), generator=generator) < 0.06
            z = on * (0.5 + torch.rand(on.shape, generator=generator))
            a, b = (z @ each for each in self.directions)
            yield torch.cat([a, 50 * b], 1)

    def state_dict(self) -> dict[str, Any]:
        """How many there were."""
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self._count = state["count"]


def area(scores: Tensor, is_one: Tensor) -> float:
    """Return the area under the curve: how often one of them has a higher score than another."""
    ones, others = scores[is_one], scores[~is_one]
    higher = (ones[:, None] > others).double() + 0.5 * (ones[:, None] == others).double()
    return float(higher.mean())


def test_planted_features_are_found_and_told_apart() -> None:
    """Of two synthetic models: the area under the curve is 0.95 at least, for each of them."""
    torch.manual_seed(0)
    data, made = TwoModels(), ModelCrosscoder(64, (24, 20), 3)
    train_sae(made, data, TrainingSettings(steps=400, learning_rate=1e-2, dead_after=5000))

    planted = torch.nn.functional.normalize(torch.cat(data.directions, 1), dim=1)
    scale = torch.cat([made.sizes[:1].expand(24), made.sizes[1:].expand(20)]).float()
    found = torch.nn.functional.normalize(made.W_dec.detach() / scale, dim=1)
    best = (planted @ found.T).max(1)
    share = made.relative_norms()[best.indices]
    assert float(best.values.mean()) >= 0.9
    assert area(share, data.of_b_alone) >= 0.95
    assert area(-share, data.of_a_alone) >= 0.95
    shared = ~data.of_a_alone & ~data.of_b_alone
    assert area(-(share - 0.5).abs(), shared) >= 0.95
    evaluation = evaluate_rows(made, next(iter(data)))
    assert evaluation.explained_variance > 0.8
    assert list(evaluation.by_layer) == ["a", "b"]


def test_it_trains_on_aligned_runs(loaded: Any, tmp_path: Path) -> None:
    """Rows that are partners stand side by side; resumed it comes to the same numbers."""
    store = MemoryStore()
    one, other = (
        store.run(save_activations(loaded, layer, TEXTS * 8, store, run_name=layer.split(".")[-1]))
        for layer in ("transformer.h.0", "transformer.h.1")
    )
    aligned = one.align(other)
    names = ("transformer.h.0", "transformer.h.1")
    batches = AlignedBatches(aligned, names, batch_size=32, seed=1)
    pairs = aligned.pairs[:40]
    rows = torch.cat([one[names[0]].take(pairs[:, 0]), other[names[1]].take(pairs[:, 1])], 1)
    assert torch.equal(torch.cat([*batches.blocks(0, 40, 16)]), rows)
    assert (batches.models, batches.widths) == (("0", "1"), (128, 128))

    def made() -> ModelCrosscoder:
        torch.manual_seed(0)
        return ModelCrosscoder(64, (128, 128), 4, batches.models)

    settings = TrainingSettings(steps=9, checkpoint_every=4)
    whole = train_sae(made(), AlignedBatches(aligned, names, batch_size=32, seed=1), settings)
    stopping = AlignedBatches(aligned, names, batch_size=32, seed=1)

    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sae(
            made(),
            stopping,
            TrainingSettings(steps=9, checkpoint_every=4, log_every=5),
            out=tmp_path,
            progress=stop,
        )
    again = AlignedBatches(aligned, names, batch_size=32, seed=1)
    resumed = train_sae(made(), again, settings, out=tmp_path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    with pytest.raises(NoRows, match="The alignment '0--1' holds no rows"):
        AlignedBatches(aligned, names, rows=slice(5, 5))


def test_the_command_trains_one_on_an_alignment(
    th: Callable[..., Any], loaded: Any, tmp_path: Path
) -> None:
    """`--kind crosscoder` reads both runs; other kinds are told so."""
    store = LocalStore(tmp_path / "store")
    for name in ("one", "two"):
        save_activations(loaded, LAYER, TEXTS * 4, store, run_name=name)
    store.run("one").align(store.run("two")).save()
    place = f"{tmp_path}/store/alignments/one--two"
    how = ("--out", str(tmp_path / "out"), "--steps", "3", "--batch-size", "16", "--latents", "40")
    code, out, err = th("sae", "train", place, LAYER, "--kind", "crosscoder", *how)
    assert code == 0, err
    assert "ModelCrosscoder of 40 latents" in out
    made = load_sae(tmp_path / "out")
    assert isinstance(made, ModelCrosscoder)
    assert (made.models, made.k) == (("one", "two"), 32)
    code, _, err = th("sae", "train", place, LAYER, *how)
    assert code == 2
    assert "An alignment is of two models, and --kind crosscoder is what reads both" in err


# --- measured


@pytest.fixture(scope="module")
def measured(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two runs of labelled documents, their alignment, and a crosscoder of both."""
    folder = tmp_path_factory.mktemp("measured")
    lines = [
        {"text": f"And he said unto them, number {at}{'?' * (at % 2)}", "asks": bool(at % 2)}
        for at in range(40)
    ]
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in lines))
    store = LocalStore(folder / "store")
    for name, fields in (("base", []), ("tuned", ["asks"])):
        documents = read_documents(str(data), keep_fields=fields)
        save_activations(loaded, LAYER, documents, store, run_name=name)
    aligned = store.run("base").align(store.run("tuned")).save()
    torch.manual_seed(0)
    made = randomized(ModelCrosscoder(64, (128, 128), 4, ("base", "tuned")))
    made.about = AlignedBatches(aligned, LAYER, batch_size=16, rows=slice(0, 300)).about
    save_sae(made, folder / "both")
    save_sae(TopKSae(64, 128, 4), folder / "one")
    return folder


def test_it_is_measured_on_aligned_runs(th: Callable[..., Any], measured: Path) -> None:
    """Its rows are the pairs, those that it was trained on left out; labels are of either run."""
    made = load_sae(measured / "both")
    store = LocalStore(measured / "store")
    aligned = store.run("base").align(store.run("tuned"))
    found = compare_saes({"both": made}, run=aligned, labels=["asks"]).measures["both"]
    batches = AlignedBatches(aligned, LAYER, batch_size=16)
    expected = evaluate_rows(made, batches.blocks(300, len(aligned)))
    assert found["explained_variance"] == pytest.approx(expected.explained_variance)
    assert found["l0"] == expected.l0

    probed = sparse_probing(made, aligned, "asks", k=[1])
    asks = torch.tensor([bool(at % 2) for at in range(40)])
    of_rows = store.run("base").documents.index.take(aligned.pairs[:, 0])
    assert probed.scores[1] == sparse_probing(made, aligned, asks, k=[1]).scores[1]
    assert found["asks_from_1"] == probed.scores[1]
    assert sparse_probing(made, aligned, asks[of_rows], k=[1]).held_out > 40

    place = f"{measured}/store/alignments/base--tuned"
    words = ("--run", place, "--label", "asks", "--json")
    code, out, err = th("sae", "compare", str(measured / "both"), *words)
    assert code == 0, err
    assert json.loads(out)["saes"][0]["asks_from_1"] == pytest.approx(probed.scores[1], abs=1e-6)


def test_what_it_cannot_be_measured_on(th: Callable[..., Any], measured: Path) -> None:
    """One model, one run, the runs the other way round: each error says what to do instead."""
    both, one, store = (str(measured / each) for each in ("both", "one", "store"))
    how = r"SAE --run STORE/alignments/NAME"
    commands: list[tuple[tuple[str, ...], str]] = [
        (("eval", "tiny:", both, "--data", "tiny:sample"), how),
        (("eval", "tiny:", both), how),
        (("top", "tiny:", both, "3"), how),
        (("search", "tiny:", both, "And what is this?"), how),
        (("compare", both, "--model", "tiny:", "--data", "tiny:sample"), how),
        (("compare", both, "--run", f"{store}/runs/base"), "must be an alignment of two, STORE/al"),
        (
            ("compare", one, "--run", f"{store}/alignments/base--tuned", "--layer", LAYER),
            "run='base--tuned' must be one run, STORE/runs/RUN: this TopKSae reads one model",
        ),
        (("compare", both, "--run", f"{store}/alignments/no"), "No alignment 'no' in the store"),
    ]
    for words, message in commands:
        code, out, err = th("sae", *words)
        assert (code > 0, out) == (True, ""), words
        assert message in " ".join(err.split()), words


def test_rows_of_others_are_no_measure(loaded: Any, measured: Path) -> None:
    """Layers of other widths, runs in the other order, and an SAE that knows no layer."""
    store = LocalStore(measured / "store")
    aligned, other = store.run("base"), store.run("tuned")
    made = load_sae(measured / "both")
    with pytest.raises(BadSetting, match="'tuned--base' must be aligned as base and tuned"):
        compare_saes({"x": made}, run=other.align(aligned))
    with pytest.raises(HookError, match=r"crosscoder\.beside = captured"):
        evaluate_in_model(made, loaded, LAYER, TEXTS)
    narrow = ModelCrosscoder(8, (200, 56), 2)
    narrow.about = {"layer": LAYER}
    with pytest.raises(WrongParts, match="is made for layers of 200 and 56"):
        sparse_probing(narrow, aligned.align(other), "asks")
    narrow.about = {}
    with pytest.raises(ValueError, match="does not say which layer"):
        sparse_probing(narrow, aligned.align(other), "asks")
