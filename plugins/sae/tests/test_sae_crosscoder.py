"""Crosscoders against the paper, at layers of a model, from files, and on known features."""

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook import assert_clean, attach
from tenterhook.errors import UnknownLayer
from tenterhook.hooks import HookError
from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_sae import (
    BadSetting,
    Crosscoder,
    NotFinite,
    NotRead,
    RunBatches,
    Trainer,
    TrainingSettings,
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

LAYERS = ("transformer.h.0", "transformer.h.1")
TEXTS = ["In the beginning God created the heaven and the earth.", "And it came to pass,"]


def randomized(made: Crosscoder) -> Crosscoder:
    """Random weights everywhere."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


@pytest.mark.parametrize("k", [None, 3])
def test_it_is_the_papers(k: int | None) -> None:
    """Sums over the layers, each with its encoder and its decoder."""
    torch.manual_seed(0)
    made = randomized(Crosscoder(20, 6, ("a", "b", "c"), k))
    layers = {name: torch.randn(5, 6) for name in made.layers}
    x = torch.cat([*layers.values()], 1)

    pre = made.b_enc + sum(a @ made.encoders[name] for name, a in layers.items())
    z = pre.relu()
    if k is not None:
        z = torch.where(z >= z.sort(1).values[:, -k, None], z, 0)
    biases = made.b_dec.split(6)  # type: ignore[no-untyped-call]
    decoded = [z @ made.decoders[n] + b for n, b in zip(layers, biases, strict=True)]
    torch.testing.assert_close(made.encode(x), z)
    torch.testing.assert_close(made.encode_sparse(x).to_dense(), z)
    torch.testing.assert_close(made(x), torch.cat(decoded, 1))
    lengths = sum(each.norm(dim=1) for each in made.decoders.values())
    penalty = (z * lengths).sum(1).mean() if k is None else torch.tensor(0.0)
    torch.testing.assert_close(made.sparsity_loss(z, pre), penalty)


def test_rescaling_is_exact() -> None:
    """Each layer by a factor of its own; the latents stay."""
    torch.manual_seed(0)
    made, x = randomized(Crosscoder(20, 6, ("a", "b"))), torch.randn(5, 12)
    latents, before = made.encode(x), made(x)
    made.rescale_parts([4.0, 0.25])

    scale = torch.tensor([4.0] * 6 + [0.25] * 6)
    torch.testing.assert_close(made.encode(scale * x), latents)
    torch.testing.assert_close(made(scale * x), scale * before)


def test_elements() -> None:
    """As many as it has."""
    sizes: dict[str, Any] = {"n_latents": 11, "layer_width": 5, "layers": ("a", "b")}
    made = Crosscoder(**sizes)
    assert Crosscoder.elements(sizes) == sum(each.numel() for each in made.parameters())
    assert Crosscoder.width(sizes) == 5


# --- at several layers


def activations(lm: Any) -> list[Tensor]:
    """What the layers return."""
    with attach(lm.module).capture(*LAYERS) as captured:
        lm.inference.execute_inference(TEXTS)
    return [captured.last(name) for name in LAYERS]


def run(lm: Any) -> Tensor:
    """The logits of the texts."""
    logits: Tensor = lm.inference.execute_inference(TEXTS)[0].logits
    return logits


def test_it_reads_several_layers(lm: Any) -> None:
    """Its latents are those of all of them; nothing changes, and nothing is left."""
    torch.manual_seed(0)
    made = randomized(Crosscoder(64, 128, LAYERS, 4))
    found, plain = activations(lm), run(lm)
    lm.attach_sae(made, LAYERS[-1])

    assert torch.equal(run(lm), plain)
    assert made.latents is not None
    torch.testing.assert_close(made.latents, made.encode(torch.cat(found, -1)))
    others = [copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
    lm.detach_sae()
    assert_clean(lm.module)
    assert not lm.module._forward_pre_hooks
    assert not lm.module.get_submodule(LAYERS[0])._forward_hooks
    for other in others:
        lm.attach_sae(other, LAYERS[-1])
        run(lm)
        assert torch.equal(other.latents, made.latents)
        lm.detach_sae()


def test_it_changes_the_last_layer(lm: Any) -> None:
    """Its own reconstruction in its place, or the direction of one latent there."""
    torch.manual_seed(0)
    made = Crosscoder(64, 128, LAYERS, 4)
    found = activations(lm)
    x = torch.cat(found, -1)
    lm.attach_sae(made, LAYERS[-1])

    made.mode = "reconstruct"
    with attach(lm.module).capture(*LAYERS) as captured:
        run(lm)
    torch.testing.assert_close(captured.last(LAYERS[-1]), made(x).detach()[..., 128:])
    assert torch.equal(captured.last(LAYERS[0]), found[0])

    made.mode = "edit"
    z = made.encode(x).detach()
    latent = int(z[0, -1].argmax())
    change = z[..., latent, None] * made.decoders[LAYERS[-1]][latent].detach()
    with made.concepts.manipulated({latent: 2.0}), attach(lm.module).capture(LAYERS[-1]) as edited:
        run(lm)
    torch.testing.assert_close(edited.last(LAYERS[-1]), found[1] + change)


def test_layers_it_does_not_fit(lm: Any) -> None:
    """Widths and layers by name."""
    lm.attach_sae(Crosscoder(64, 96, LAYERS), LAYERS[-1])
    with pytest.raises(HookError, match=rf"takes 96 inputs, and layer '{LAYERS[0]}' has 128") as e:
        run(lm)
    assert isinstance(e.value.__cause__, WrongWidth)
    lm.detach_sae()
    with pytest.raises(UnknownLayer, match="nowhere"):
        lm.layers.register_hook(LAYERS[-1], Crosscoder(64, 128, ("nowhere", LAYERS[-1])))
    lm.attach_sae(Crosscoder(64, 128, (LAYERS[1], LAYERS[0])), LAYERS[0])
    with pytest.raises(HookError, match=rf"'{LAYERS[1]}' did not run before layer") as missed:
        run(lm)
    assert isinstance(missed.value.__cause__, NotRead)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crosscoder(8, 4, ("a",)), r"layers=\['a'\] must be the names of two layers"),
        (lambda: Crosscoder(8, 4, ("a", "a")), r"layers=\['a', 'a'\] must be .* each once"),
        (lambda: Crosscoder(8, 4, "ab"), r"layers='ab' must be the names"),
        (lambda: Crosscoder(8, 4, (1, 2)), r"layers=\[1, 2\] must be the names"),  # type: ignore[arg-type]
        (lambda: Crosscoder(8, 0, ("a", "b")), r"layer_width=0 must be a whole number"),
        (lambda: Crosscoder(8, float("nan"), ("a", "b")), r"layer_width=nan must be"),  # type: ignore[arg-type]
        (lambda: Crosscoder(8, 4, ("a", "b"), 9), r"k=9 must be a number of latents"),
    ],
)
def test_settings_that_cannot_be(make: Any, message: str) -> None:
    """The value, and what is valid."""
    with pytest.raises(BadSetting, match=message):
        make()


@pytest.mark.parametrize("k", [None, 3])
def test_files(tmp_path: Path, k: int | None) -> None:
    """Every bit comes back; a config of other sizes does not."""
    made = randomized(Crosscoder(20, 6, LAYERS, k))
    save_sae(made, tmp_path)
    other = load_sae(tmp_path)

    assert isinstance(other, Crosscoder)
    assert other.settings() == made.settings()
    for name, tensor in made.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    config = json.loads(tmp_path.joinpath("cfg.json").read_text())
    changed: list[tuple[dict[str, Any], str]] = [
        ({"layers": ["a", "b", "c"]}, "3 layers of 6 features and d_in=12"),
        ({"layer_width": 7}, "2 layers of 7 features and d_in=12"),
        ({"layers": "ab"}, "no list of layers"),
        ({"layers": ["a", "a"]}, r"layers=\['a', 'a'\] must be"),
        ({"layer_width": "6"}, "no list of layers"),
    ]
    for wrong, message in changed:
        tmp_path.joinpath("cfg.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(UnreadableSae, match=message):
            load_sae(tmp_path)


# --- training


class Features:
    """Two layers of another size each, with features that they share, and some of one alone."""

    def __init__(self, features: int = 48, width: int = 24) -> None:
        generator = torch.Generator().manual_seed(3)
        directions = torch.randn(features, 2, width, generator=generator)
        self.directions = directions / directions.norm(dim=2, keepdim=True)
        self.directions[: features // 4, 0] = 0
        self.directions[features // 4 : features // 2, 1] = 0
        self.widths, self.width = (width, width), 2 * width
        self.about: dict[str, Any] = {"layer": "b", "layers": ["a", "b"]}
        self._count = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            generator = torch.Generator().manual_seed(self._count)
            self._count += 1
            on = torch.rand(256, len(self.directions), generator=generator) < 0.06
            z = on * (0.5 + torch.rand(on.shape, generator=generator))
            a, b = (z @ self.directions[:, at] for at in (0, 1))
            yield torch.cat([a, 50 * b], 1)

    def state_dict(self) -> dict[str, Any]:
        """How many there were."""
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many."""
        self._count = state["count"]


def test_it_recovers_features_of_two_layers(tmp_path: Path) -> None:
    """The mean highest cosine is 0.9 at least, whatever the layers' sizes."""
    torch.manual_seed(0)
    data, made = Features(), Crosscoder(64, 24, ("a", "b"), 3)
    settings = TrainingSettings(steps=400, learning_rate=1e-2, dead_after=5000)
    train_sae(made, data, settings, out=tmp_path)

    scale = torch.tensor([1.0] * 24 + [50.0] * 24)
    planted = torch.nn.functional.normalize(data.directions.reshape(-1, 48), dim=1)
    found = torch.nn.functional.normalize(made.W_dec.detach() / scale, dim=1)
    assert float((planted @ found.T).max(1).values.mean()) >= 0.9
    assert evaluate_rows(made, next(iter(data))).explained_variance > 0.8
    assert torch.equal(load_sae(tmp_path).W_dec, made.W_dec)


def test_resumed_it_comes_to_the_same_numbers(tmp_path: Path) -> None:
    """To the bit, with a scale for each layer."""
    settings = TrainingSettings(steps=8, dead_after=200, resample_every=2, checkpoint_every=3)

    def made() -> Crosscoder:
        torch.manual_seed(0)
        return Crosscoder(64, 24, ("a", "b"))

    whole = train_sae(made(), Features(), settings)
    trainer = Trainer(made(), Features(), settings)
    for _, batch in zip(range(5), trainer.batches, strict=False):
        trainer.train_batch(batch)
    trainer.save_checkpoint(tmp_path)
    resumed = train_sae(made(), Features(), settings, out=tmp_path)

    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_batches_it_is_not_made_for() -> None:
    """Widths and layers; NaN before anything changes."""
    with pytest.raises(WrongParts, match=r"layers of 24 and 24 and 24 features, .*'a', 'b', of 24"):
        Trainer(Crosscoder(64, 24, ("a", "b", "c")), Features())
    trainer = Trainer(Crosscoder(64, 24, ("a", "b")), Features())
    rows = next(iter(trainer.batches))
    rows[3, 40] = torch.nan
    with pytest.raises(NotFinite, match="Batch 1 of layer 'b': 1 of 256 rows hold NaN"):
        trainer.train_batch(rows)


def test_of_layers_of_the_small_model(loaded: Any) -> None:
    """From a run of both; the last layer's reconstruction is of use to the model."""
    texts, store = read_documents("tiny:sample").first(24), MemoryStore()
    run = store.run(save_activations(loaded, [*LAYERS], texts, store))
    torch.manual_seed(0)
    made = Crosscoder(256, 128, LAYERS, 16)
    batches = RunBatches(run, LAYERS, batch_size=256)
    train_sae(made, batches, TrainingSettings(steps=60, learning_rate=5e-3))

    found = evaluate_in_model(made, loaded, LAYERS[-1], texts.first(8))
    assert found.cross_entropy_recovered > 0.5
    assert_clean(loaded.module)


def test_measures_of_each_layer() -> None:
    """Against their definitions; the whole is what all layers are side by side."""
    torch.manual_seed(0)
    made, x = Crosscoder(40, 8, LAYERS, 3), torch.randn(100, 16) * 3 + 1
    found = evaluate_rows(made, [x[:30], x[30:]])

    y = made(x).detach()
    for name, part in zip(LAYERS, (slice(0, 8), slice(8, 16)), strict=True):
        error, spread = (x - y)[:, part].square(), (x - x.mean(0))[:, part].square()
        layer = found.by_layer[name]
        assert layer.mean_squared_error == pytest.approx(float(error.mean()), rel=1e-5)
        assert layer.explained_variance == pytest.approx(
            float(1 - error.sum() / spread.sum()), rel=1e-4
        )
    assert list(found.by_layer) == [*LAYERS]
