"""Runs of made-up rows in memory, for analyses that read runs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tenterhook_store import LayerArray, MemoryStore, RowBlock, Run, RunPlan


def a_run(
    layers: Mapping[str, Tensor],
    documents: Tensor,
    *,
    unit: int = 16,
    units: Sequence[int] | None = None,
) -> Run:
    """Return a run of these rows, float32; `documents` says which document each is of."""
    arrays = [LayerArray(name, rows.shape[1], "float32") for name, rows in layers.items()]
    count = len(documents)
    plan = RunPlan(
        rows=count, rows_per_unit=unit, documents=int(documents.max()) + 1, layers=arrays
    )
    store = MemoryStore()
    writer = store.write_run("run", plan)
    for each in plan.units() if units is None else map(plan.unit, units):
        at = torch.arange(each.start, each.stop)
        with writer.open_unit(each) as writing:
            writing.append(
                RowBlock(
                    tokens=at,
                    documents=documents[at],
                    positions=at * 0,
                    layers={name: rows[at].float() for name, rows in layers.items()},
                )
            )
            writing.commit({})
    return store.run("run")
