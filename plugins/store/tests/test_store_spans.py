"""The characters of rows: a small tensor of each unit, read as one array."""

from typing import Any

import pytest
import torch

from tenterhook_store import SPANS, LayerArray, MemoryStore, NoSpans, RowBlock, Run, RunPlan


def made(about: dict[str, Any], units: tuple[int, ...] = (0, 1, 2)) -> Run:
    """Return a run of ten rows in units of four, whose spans are 10 to 11, 11 to 12, ..."""
    plan = RunPlan(
        rows=10, rows_per_unit=4, documents=1, layers=[LayerArray("x", 1, "float32")], about=about
    )
    store = MemoryStore()
    writer = store.write_run("run", plan)
    for unit in map(plan.unit, units):
        rows = torch.arange(unit.start, unit.stop)
        layers = {"x": rows[:, None].float()}
        with writer.open_unit(unit) as writing:
            writing.append(RowBlock(tokens=rows, documents=rows * 0, positions=rows, layers=layers))
            if about.get(SPANS):
                writing.keep(SPANS, torch.stack([rows + 10, rows + 11], 1).int())
            writing.commit({})
    return store.run("run")


@pytest.mark.parametrize("key", [0, -1, slice(3, 9), slice(None), [9, 0, 4], slice(8, 1, -3)])
def test_they_are_read_as_rows_are(key: Any) -> None:
    """Any index of rows takes the spans of those rows, across units."""
    wanted = torch.arange(10)[:, None] + torch.tensor([10, 11])
    wanted = wanted[range(10)[key]] if isinstance(key, slice) else wanted[key]
    assert torch.equal(made({SPANS: True}).spans[key], wanted.int())


def test_what_is_read_is_the_callers_own() -> None:
    """Writing to spans that were read changes nothing that is read later."""
    spans = made({SPANS: True}).spans
    spans[0:2].zero_()
    assert spans[0].tolist() == [10, 11]


def test_a_run_that_lacks_units() -> None:
    """Spans of rows that are there are read by their numbers; others are missing."""
    spans = made({SPANS: True}, (0, 2)).spans
    assert len(spans) == 4
    assert spans[[9, 1]].tolist() == [[19, 20], [11, 12]]
    with pytest.raises(IndexError, match="unit 1"):
        spans[5]


def test_a_run_of_an_earlier_version_has_none() -> None:
    """It reads as before, and what asks for spans is told that there are none, and what to do."""
    run = made({})
    assert run["x"][9].item() == 9
    with pytest.raises(NoSpans, match=r"Run 'run' has no spans: it was begun before runs had them"):
        _ = run.spans
