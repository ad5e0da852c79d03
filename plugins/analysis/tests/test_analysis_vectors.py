"""Steering vectors against plain means, and their accuracy against a plain loop of folds."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from runs import a_run

from tenterhook_analysis import (
    OtherLayers,
    UnreadableVector,
    contrast,
    load_vector,
    mean_difference,
)
from tenterhook_transformers import LanguageModel

Make = Callable[..., LanguageModel]
POSITIVE = ["And God said", "He was very glad and sang", "The good king rejoiced", "I love thee"]
NEGATIVE = ["And they wept", "He was sore afraid", "The wicked fell", "I hate thee, and flee"]


def held_out(one: Tensor, other: Tensor, of_one: Tensor, of_other: Tensor, folds: int) -> float:
    """Score each fold by the vector of the others, in a plain loop."""
    shares: list[list[float]] = [[], []]
    for fold in range(folds):
        means = [x[f % folds != fold].mean(0) for x, f in ((one, of_one), (other, of_other))]
        way, middle = means[0] - means[1], (means[0] + means[1]) / 2
        shares[0] += ((one[of_one % folds == fold] - middle) @ way > 0).float().tolist()
        shares[1] += ((other[of_other % folds == fold] - middle) @ way <= 0).float().tolist()
    return sum(sum(each) / len(each) for each in shares) / 2


def test_the_difference_of_two_runs() -> None:
    """The vector is of all rows; each fold of documents is scored by the others."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(60, 5, generator=generator).double() + 0.4
    other = torch.randn(45, 5, generator=generator).double()
    of_one, of_other = torch.arange(60) // 5, torch.arange(45) // 4

    found = mean_difference(a_run({"x": one}, of_one), a_run({"x": other}, of_other), folds=3)

    expected = one.float().mean(0) - other.float().mean(0)
    assert torch.allclose(found["x"], expected, atol=1e-6)
    score = held_out(one.float(), other.float(), of_one, of_other, 3)
    assert float(found.accuracy[0]) == pytest.approx(score)
    assert found.counts == (60, 45)


def test_no_accuracy_of_noise() -> None:
    """A vector that has seen what it is scored on would tell anything apart."""
    rows = torch.randn(40, 200, generator=torch.Generator().manual_seed(1))
    one, other = (a_run({"x": each}, torch.arange(20)) for each in (rows[:20], rows[20:]))

    assert 0.2 < float(mean_difference(one, other).accuracy[0]) < 0.8


@pytest.mark.parametrize("side", ["left", "right"])
def test_contrast(make_lm: Make, side: str) -> None:
    """The last token of each text, whatever the padding; all blocks unless told."""
    lm = make_lm("llama", side=side)

    found = contrast(lm, POSITIVE, NEGATIVE, batch_size=3, folds=2)

    rows = []
    for texts in (POSITIVE, NEGATIVE):
        seen = []
        for text in texts:
            with lm.capture("layer_1") as captured, torch.no_grad():
                lm.module(**lm.tokenize(text))
            seen.append(captured.last("layer_1")[0, -1])
        rows.append(torch.stack(seen))
    assert found.layers == tuple(lm.layers.index.blocks())
    assert torch.allclose(found["model.layers.1"], rows[0].mean(0) - rows[1].mean(0), atol=1e-5)
    numbers = torch.arange(4)
    assert float(found.accuracy[1]) == pytest.approx(
        held_out(rows[0], rows[1], numbers, numbers, 2)
    )


def test_the_mean_over_tokens(make_lm: Make) -> None:
    """Any selection of tokens, averaged in each text before texts are."""
    lm = make_lm("gpt2")

    found = contrast(lm, POSITIVE[:2], NEGATIVE[:1], ["layer_2"], tokens=":")

    def mean(text: str) -> Tensor:
        with lm.capture("layer_2") as captured:
            lm.inference.execute_inference([text])
        return captured.last("layer_2")[0].mean(0)

    expected = (mean(POSITIVE[0]) + mean(POSITIVE[1])) / 2 - mean(NEGATIVE[0])
    assert torch.allclose(found.vectors[0], expected, atol=1e-5)
    assert bool(found.accuracy.isnan().all())  # nothing could be held out


def test_steering_with_it(tiny: LanguageModel, tmp_path: Path) -> None:
    """It is saved by layer, and what is read is what was found."""
    found = contrast(tiny, POSITIVE, NEGATIVE, folds=2)
    file = tmp_path / "vectors.safetensors"
    found.save(file)

    assert found.best in found.layers
    assert torch.equal(load_vector(file, found.best), found[found.best])
    with tiny.steer(found.best, lambda y: y + 4 * found[found.best]):
        assert tiny.generate("And God said", max_new_tokens=2, do_sample=False).text
    assert "held-out accuracy" in repr(found)
    assert list(found.to_pandas().layer) == list(found.layers)
    assert "Held-out accuracy, 2 folds" in found._repr_html_()
    with pytest.raises(KeyError, match=r"There is no vector of 'x', but of transformer.h.0"):
        found["x"]


def test_files_of_vectors(tmp_path: Path) -> None:
    """numpy's, torch's and safetensors'; what is none is named."""
    vector = torch.arange(3.0)
    np.save(tmp_path / "v.npy", vector.numpy())
    torch.save(vector, tmp_path / "v.pt")
    save_file({"only": vector[None]}, tmp_path / "v.safetensors")
    save_file({"a": vector, "b": vector.clone()}, tmp_path / "two.safetensors")
    np.save(tmp_path / "m.npy", np.ones((2, 3)))

    for name in ("v.npy", "v.pt", "v.safetensors"):
        assert torch.equal(load_vector(tmp_path / name, "layer"), vector)
    with pytest.raises(UnreadableVector, match="has vectors of a, b, and none of c"):
        load_vector(tmp_path / "two.safetensors", "c")
    with pytest.raises(UnreadableVector, match=r"it has torch.float64 \[2, 3\], no vector"):
        load_vector(tmp_path / "m.npy")
    with pytest.raises(UnreadableVector, match=r"No vector can be read of .*missing.npy"):
        load_vector(tmp_path / "missing.npy")
    for name in ("d.npy", "d.pt", "d.safetensors"):
        (tmp_path / name).symlink_to("/dev/zero" if os.name == "posix" else str(tmp_path))
        with pytest.raises(UnreadableVector, match="it is no file"):
            load_vector(tmp_path / name)


def test_runs_of_other_layers() -> None:
    """Neither another name nor another width is compared."""
    one, other = a_run({"x": torch.ones(4, 2)}, torch.arange(4)), torch.ones(4, 3)
    for run in (a_run({"y": other}, torch.arange(4)), a_run({"x": other}, torch.arange(4))):
        with pytest.raises(OtherLayers, match="are not of the same layers: x; and"):
            mean_difference(one, run)
    with pytest.raises(ValueError, match="folds=1 must be a whole number, 2 or more"):
        mean_difference(one, one, folds=1)
