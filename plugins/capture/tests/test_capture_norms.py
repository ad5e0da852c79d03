"""Captures keep, for each chunk of rows, between which lengths they lie."""

from typing import Any

import attrs
import pytest

from tenterhook_capture import save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import NORM_ROWS, MemoryStore, Run, RunPlan

LAYERS = ["blocks.0", "head:input"]
TEXTS = [" ".join(f"w{i}.{at}" for at in range(1 + 5 * i % 13)) for i in range(150)]


def check(run: Run) -> None:
    """See that every row of every layer is within the bounds of its chunk, and they are tight."""
    for layer in run.layers:
        bounds = run.norm_bounds(layer)
        assert bounds is not None
        assert bounds.is_bounded.all()
        assert int((bounds.stop - bounds.start).sum()) == run.rows_committed
        for each in bounds:
            norms = run[layer][each.start : each.stop].double().norm(dim=1)
            assert each.smallest <= float(norms.min()) <= each.smallest * 1.001
            assert each.largest * 0.999 <= float(norms.max()) <= each.largest


@pytest.mark.parametrize("writing", ["inline", "thread"])
@pytest.mark.parametrize("bucket", [False, True], ids=["in order", "bucketed"])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_bounds_of_a_capture(dtype: Any, bucket: bool, writing: Any) -> None:
    """Whoever writes, in whichever order rows come: of what is stored, not of what was cast."""
    store = MemoryStore()
    more = {"dtype": dtype, "bucket": bucket, "writing": writing, "rows_per_unit": 512}
    run = store.run(save_activations(WordModel(), LAYERS, TEXTS, store, run_name="r", **more))

    check(run)
    kept = [name for name in run.unit_tensors(0) if name.startswith("norms/")]
    assert kept == [f"norms/{layer}" for layer in LAYERS]
    first = next(iter(run.norm_bounds("blocks.0") or ()))
    assert (first.start, first.stop) == (0, 256)


def test_without_rows_there_are_none() -> None:
    """Statistics alone have no chunks."""
    store = MemoryStore()
    save_activations(WordModel(), LAYERS, TEXTS, store, run_name="r", reduce=("mean",))
    assert not [name for name in store.run("r").unit_tensors(0) if name.startswith("norms/")]


def begun_earlier(plan: RunPlan) -> RunPlan:
    """Return a plan as an earlier version wrote it."""
    about = {key: value for key, value in plan.about.items() if key != NORM_ROWS}
    return attrs.evolve(plan, about=about)


def test_a_run_that_an_earlier_version_began_goes_on_without() -> None:
    """All its units are of one kind, and it says that there are no bounds."""
    store, other = MemoryStore(), MemoryStore()
    whole = other.run(save_activations(WordModel(), LAYERS, TEXTS, other, rows_per_unit=256))
    store.write_run(whole.id, begun_earlier(whole.plan))
    save_activations(WordModel(), LAYERS, TEXTS, store, rows_per_unit=256, run_name=whole.id)
    run = store.run(whole.id)

    assert run.is_complete
    assert run.norm_bounds("blocks.0") is None
    assert not [name for name in run.unit_tensors(0) if name.startswith("norms/")]
