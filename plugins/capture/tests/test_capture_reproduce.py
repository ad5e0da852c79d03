"""Units of a run are computed again and compared, whatever the run keeps."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_capture import (
    BadArgument,
    CaptureOptions,
    NotRebuildable,
    Progress,
    Reproduction,
    prepare_capture,
    reproduce,
    save_activations,
)
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, RunPlan

TEXTS = [" ".join(f"w{(at * at + i) % 31}" for i in range(2 + at * 7 % 13)) for at in range(24)]
LAYERS = ["blocks.1:input", "head"]

KINDS: dict[str, dict[str, Any]] = {
    "all rows": {},
    "float16": {"dtype": "float16"},
    "int8": {"dtype": "int8"},
    "last tokens": {"tokens": "last", "rows_per_unit": 6},
    "windows": {"long_documents": "split"},
    "by length": {"bucket": True},
    "a budget": {"batch_size": None},
    "statistics": {"reduce": "mean,var,cov,quantiles,topk"},
    "rows and statistics": {"reduce": "mean,topk", "keep_rows": True},
    "written by a thread": {"writing": "thread"},
}


def saved(model: WordModel, **how: Any) -> MemoryStore:
    """Save the run `r`."""
    store = MemoryStore()
    settings = {"rows_per_unit": 40, "batch_size": 4, **how}
    save_activations(model, LAYERS, TEXTS, store, run_name="r", **settings)
    return store


def again(
    store: MemoryStore,
    model: WordModel,
    *,
    texts: Sequence[str] = TEXTS,
    units: int = 3,
    progress: Any = None,
    **how: Any,
) -> Reproduction:
    """Compute the run `r` again, by a model and documents without names."""
    options = CaptureOptions.of({"rows_per_unit": 40, "batch_size": 4, **how})
    capture = prepare_capture(model, LAYERS, list(texts), options=options)
    return reproduce(store, "r", units=units, capture=capture, progress=progress)


def hook(model: WordModel, layer: str, by: float) -> WordModel:
    """Have a hook of torch, which nobody knows of, scale what a layer returns."""

    def scale(module: Any, args: Any, output: Tensor) -> Tensor:
        return output * by

    model.layers.index.resolve(layer).module.register_forward_hook(scale)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_model_gives_equal_rows(kind: str) -> None:
    """All units, one after the other, and nothing is written."""
    store = saved(WordModel(), **KINDS[kind])
    before = store.run("r").metadata
    found = again(store, WordModel(), units=100, **KINDS[kind])
    run = store.run("r")
    assert found.verdict == "equal"
    assert found.rows == len(run)
    assert found.units == tuple(range(run.plan.unit_count))
    assert [each.layer for each in found.layers] == LAYERS
    assert (found.reasons, found.furthest) == ((), ())
    assert str(found).splitlines() == [
        f"Run r: {len(run)} rows of {run.plan.unit_count} units computed again",
        *(f"{layer}: equal" for layer in LAYERS),
        "equal",
    ]
    assert store.run("r").metadata == before


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_gives_other_rows(kind: str) -> None:
    """Of the layers that it changes alone."""
    store = saved(WordModel(), **KINDS[kind])
    found = again(store, hook(WordModel(), "head", 1.5), **KINDS[kind])
    assert found.verdict == "different"
    assert [each.verdict for each in found.layers] == ["equal", "different"]
    lines = str(found).splitlines()
    assert lines[2].startswith("head: different, ")
    assert lines[3:] == ["not as it was: nothing that is known", "different"]
    if found.furthest:
        assert found.furthest[0].layer == "head"
        assert "is 0.33 of its size from the stored row" in lines[2]


@pytest.mark.parametrize("kind", ["all rows", "float16", "statistics"])
def test_rounding_is_close(kind: str) -> None:
    """And it is said by how much."""
    store = saved(WordModel(), **KINDS[kind])
    by = 1.001 if kind == "float16" else 1 + 3e-7
    found = again(store, hook(WordModel(), "head", by), **KINDS[kind])
    assert found.verdict == "close"
    dtype = "float16" if kind == "float16" else "float32"
    assert f"ulps of {dtype} for 99 % of the values, relative error" in str(found)


@pytest.mark.parametrize(("units", "expected"), [(1, (0,)), (2, (0, 4)), (3, (0, 2, 4))])
def test_units_are_spread_over_the_run(units: int, expected: tuple[int, ...]) -> None:
    """The first, the last, and some between; progress counts their rows."""
    store, seen = saved(WordModel()), list[Progress]()
    assert store.run("r").plan.unit_count == 5
    found = again(store, WordModel(), units=units, progress=seen.append)
    assert found.units == expected
    assert seen[-1].rows == seen[-1].rows_total == found.rows


def test_what_is_not_as_it_was_is_named() -> None:
    """Weights, documents, settings of torch, and the device."""
    store = saved(WordModel())
    found = again(store, WordModel(seed=1))
    assert found.verdict == "different"
    assert "the model: other weights" in found.reasons
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        found = again(store, hook(WordModel(), "head", 1 + 3e-7))
    finally:
        torch.set_num_threads(threads)
    assert found.reasons == (f"threads was {threads} and is {threads + 1}",)
    assert f"not as it was: threads was {threads}" in str(found)
    # A text more, and no row is the same token any longer: nothing is run.
    found = again(store, WordModel(), texts=[*TEXTS, "one more"])
    assert (found.verdict, found.units) == ("different", ())
    assert [each.verdict for each in found.layers] == ["different", "different"]
    assert "documents not the same" in found.reasons


def test_other_tokens_are_other_rows() -> None:
    """Where one word was replaced, which token it is is said."""
    store = saved(WordModel())
    found = again(store, WordModel(), texts=["other " + TEXTS[0].partition(" ")[2], *TEXTS[1:]])
    assert found.verdict == "different"
    assert any(each.startswith("token 0 of document 0 is ") for each in found.reasons)


def test_nothing_committed_is_nothing_compared() -> None:
    """It is said, and is no difference."""
    store, options = MemoryStore(), CaptureOptions()
    capture = prepare_capture(WordModel(), LAYERS, TEXTS, options=options)
    store.write_run("r", capture.plan)
    found = reproduce(store, "r", capture=capture)
    assert (found.verdict, found.units, found.rows) == ("not compared", (), 0)
    assert "head: not compared" in str(found)


def test_what_makes_no_sense() -> None:
    """No units, and a run whose model has no name."""
    store = saved(WordModel())
    with pytest.raises(BadArgument, match="units=0 must be"):
        reproduce(store, "r", units=0)
    with pytest.raises(NotRebuildable, match="a model that was not loaded by a name"):
        reproduce(store, "r")
    store.write_run("bare", RunPlan(rows=1, rows_per_unit=1, documents=1, layers=()))
    with pytest.raises(NotRebuildable, match="its recipe, which was never kept"):
        reproduce(store, "bare")
