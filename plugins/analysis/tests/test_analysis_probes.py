"""Probes against solutions in closed form, and against their own gradient; folds held out."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from runs import a_run

from tenterhook_analysis import BadLabels, probe
from tenterhook_store import NoDocumentField
from tenterhook_transformers import LanguageModel
from tenterhook_zarr import ZarrStore

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(120, 4, generator=GENERATOR) * torch.tensor([1.0, 20.0, 0.1, 3.0]) + 1
DOCUMENTS = torch.arange(120) // 3


def ridge(rows: Tensor, values: Tensor, penalty: float) -> Tensor:
    """Solve ridge regression on centred rows, with no penalty on the bias."""
    rows, values = rows.double(), values.double()
    mean, middle = rows.mean(0), values.mean()
    centred = rows - mean
    matrix = centred.T @ centred + penalty * torch.eye(rows.shape[1])
    weight = torch.linalg.solve(matrix, centred.T @ (values - middle))
    return torch.cat([weight, (middle - mean @ weight)[None]])


def test_ridge_is_the_closed_form() -> None:
    """Of all rows; the score of each fold is that of the others' solution."""
    values = ROWS @ torch.tensor([1.0, -0.5, 2.0, 0.0]) + torch.randn(120, generator=GENERATOR)

    found = probe(a_run({"x": ROWS}, DOCUMENTS), "x", values, penalty=3.0, folds=4)

    expected = ridge(ROWS, values, 3.0)
    assert found.kind == "ridge"
    assert torch.allclose(found.weight[:, 0].double(), expected[:-1], rtol=1e-4, atol=1e-5)
    assert float(found.bias[0]) == pytest.approx(float(expected[-1]), rel=1e-3)
    for fold in range(4):
        held = fold == DOCUMENTS % 4
        one = ridge(ROWS[~held], values[~held], 3.0)
        off = ROWS[held].double() @ one[:-1] + one[-1] - values[held]
        spread = values[held].double() - values[held].double().mean()
        score = 1 - off.square().sum() / spread.square().sum()
        assert float(found.fold_scores[fold]) == pytest.approx(float(score), abs=1e-4)
    assert torch.allclose(
        found.predict(ROWS).double(), ROWS.double() @ expected[:-1] + expected[-1], atol=1e-3
    )


@pytest.mark.parametrize("count", [2, 3])
def test_logistic_is_where_the_gradient_is_zero(count: int) -> None:
    """Of two classes one column, of three a column each; as scikit-learn has the penalty."""
    some = (ROWS - ROWS.mean(0))[:, :count]
    scores = some / some.std(0) + torch.randn(120, count, generator=GENERATOR)
    classes = scores.argmax(1)
    names = ["a", "b", "c"]

    found = probe(a_run({"x": ROWS}, DOCUMENTS), "x", [names[at] for at in classes], penalty=0.5)

    weight = found.weight.double().requires_grad_()
    bias = found.bias.double().requires_grad_()
    outputs = ROWS.double() @ weight + bias
    if count == 2:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
    loss = torch.nn.functional.cross_entropy(outputs, classes, reduction="sum")
    loss = loss + 0.25 * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    size = float(ROWS.norm())
    assert all(float(each.norm()) < 1e-4 * size for each in gradients)
    assert found.classes == tuple(names[:count])
    assert found.baseline == pytest.approx(float(torch.bincount(classes).max()) / 120)
    assert found.score > found.baseline
    right = [one == names[at] for one, at in zip(found.predict(ROWS), classes, strict=True)]
    assert sum(right) / 120 > found.baseline


def test_noise_is_not_read_off() -> None:
    """Tokens of one document are in one fold, so that none is known by the others."""
    rows = torch.randn(30, 60, generator=GENERATOR).repeat_interleave(4, 0)
    labels = torch.randint(2, (30,), generator=GENERATOR).bool()

    found = probe(a_run({"x": rows}, torch.arange(120) // 4), "x", labels)

    assert found.classes == (False, True)
    assert found.score < 0.8


def test_rows_that_are_missing_or_not_labelled() -> None:
    """Are left out, as if they were not there."""
    labels: list[Any] = [["no", "yes"][at % 2] for at in range(40)]
    labels[3] = None
    known = (DOCUMENTS != 3) & (torch.arange(120) < 64)

    found = probe(a_run({"x": ROWS}, DOCUMENTS, units=[0, 1, 2, 3]), "x", labels)

    assert found.rows == int(known.sum())


def test_a_field_of_the_documents(tiny: LanguageModel, tmp_path: Path) -> None:
    """A label that the run keeps; the probe is saved as a vector and a bias."""
    texts = [{"text": f"{word} the Lord", "kind": word} for word in ("And", "But") * 6]
    tiny.store = ZarrStore(tmp_path)
    run = tiny.store.run(
        tiny.activations.save("layer_1", texts, field="text", keep_fields=["kind"])
    )

    found = probe(run, "layer_1", "kind", folds=3)

    file = tmp_path / "probe.safetensors"
    found.save(file)
    assert found.classes == ("And", "But")
    assert found.score > 0.7
    assert torch.equal(load_file(file)["weight"], found.direction)
    assert repr(found).startswith("Probe('transformer.h.1', logistic, held-out score")
    assert len(found.to_pandas()) == 128
    assert "Held-out accuracy" in found._repr_html_()
    with pytest.raises(NoDocumentField):
        probe(run, "layer_1", "mood")


@pytest.mark.parametrize(
    ("labels", "settings", "match"),
    [
        ([1, 2, 3], {}, "3 labels are given, and there are 40 documents and 120 rows"),
        ([None] * 40, {}, "none of the labels is known"),
        (["a"] * 40, {}, "all labels are 'a', and a class needs another"),
        (["a", "b"] * 20, {"kind": "ridge"}, "ridge regression is of numbers"),
        (["a", "b"] * 20, {"kind": "svm"}, "kind='svm' must be 'logistic' or 'ridge'"),
        ([0.5] * 40, {"penalty": -1}, "penalty=-1 must be 0 or more"),
        ([None] * 39 + [0.5], {"units": [0]}, "no row that is there has a label"),
    ],
)
def test_what_no_probe_is_fitted_to(labels: Any, settings: dict[str, Any], match: str) -> None:
    """Says why."""
    run = a_run({"x": ROWS}, DOCUMENTS, units=settings.pop("units", None))

    with pytest.raises((BadLabels, ValueError), match=match):
        probe(run, "x", labels, **settings)


def test_directions_of_three_classes() -> None:
    """There is not one."""
    found = probe(a_run({"x": ROWS}, DOCUMENTS), "x", [at % 3 for at in range(40)])

    with pytest.raises(ValueError, match="has 3 directions, one for each of its classes"):
        _ = found.direction
