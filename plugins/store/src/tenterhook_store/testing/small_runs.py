"""Small runs, whose rows follow from their numbers, so that what is read can be compared."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tenterhook_store import (
    LayerArray,
    RowBlock,
    Run,
    RunPlan,
    RunWriter,
    Unit,
    flat_bytes,
    plain_tensor,
)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors have one shape and dtype, and the same bits, NaNs included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(*(flat_bytes(plain_tensor(each)) for each in (one, other)))


def a_plan(
    rows: int = 20,
    rows_per_unit: int = 8,
    layers: Sequence[tuple[str, int, str]] = (("h.0", 3, "float32"), ("h.1", 5, "bfloat16")),
    **others: Any,
) -> RunPlan:
    """Return a small plan; row `r` comes from document `r // 4`."""
    return RunPlan(
        rows=rows,
        rows_per_unit=rows_per_unit,
        documents=-(-rows // 4),
        layers=tuple(LayerArray(*layer) for layer in layers),
        **{"spec": {"batch_size": 2}, "about": {"model": {"name": "none"}}, **others},
    )


def rows_of(plan: RunPlan, start: int, stop: int) -> RowBlock:
    """Return what belongs in those rows: the same whenever it is asked."""
    rows = torch.arange(start, stop)
    layers = {}
    for number, layer in enumerate(plan.layers):
        values = rows[:, None] * 100.0 + torch.arange(layer.features) + number / 8
        layers[layer.name] = values.to(getattr(torch, layer.dtype))
    return RowBlock(tokens=rows * 7, documents=rows // 4, positions=rows % 4, layers=layers)


def write(writer: RunWriter, units: Sequence[Unit], *, step: int = 3) -> None:
    """Write units a few rows at a time."""
    for unit in units:
        with writer.open_unit(unit) as writing:
            for start in range(unit.start, unit.stop, step):
                block = rows_of(writer.plan, start, min(start + step, unit.stop))
                writing.append(block)
            writing.commit({"seconds": 1.5})


def assert_whole(run: Run, *, rows: int = 20) -> None:
    """Compare a run of `a_plan()` with `rows_of`: it has the first so many rows, and no other."""
    assert len(run) == run.rows_committed == rows
    assert_committed(run)


def assert_committed(run: Run) -> None:
    """Compare every row that a run of `a_plan()` says it has with `rows_of`."""
    expected = rows_of(a_plan(), 0, run.plan.rows)
    assert list(run.layers) == list(expected.layers)
    for rows in run.ranges:
        for layer, values in expected.layers.items():
            assert same_bits(run[layer][rows], values[rows]), layer
        assert run.tokens[rows].tolist() == expected.tokens[rows].tolist()
        assert run.documents.index[rows].tolist() == expected.documents[rows].tolist()
        assert run.documents.position[rows].tolist() == expected.positions[rows].tolist()
