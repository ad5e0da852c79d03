"""Runs whose bounds of norms are kept as a capture keeps them."""

from typing import Any

import torch
from torch import Tensor

from tenterhook_store import (
    NORM_ROWS,
    SCALE,
    LayerArray,
    MemoryStore,
    NormMeter,
    RowBlock,
    Run,
    RunPlan,
    quantize,
)

DTYPES = ["float64", "float32", "bfloat16", "float16", "int8"]


def written(
    rows: Tensor,
    dtype: str = "float32",
    *,
    chunk: int = 4,
    unit: int = 10,
    blocks: int = 3,
    units: Any = None,
) -> Run:
    """Return a run of one layer `x`, of documents of five tokens."""
    arrays = [LayerArray("x", rows.shape[1], dtype)]
    layers = {"x": rows.to(getattr(torch, dtype)) if dtype != "int8" else rows}
    if dtype == "int8":
        arrays.append(LayerArray("x" + SCALE, 1, "float32"))
        layers["x"], layers["x" + SCALE] = quantize(rows)
    plan = RunPlan(
        rows=len(rows),
        rows_per_unit=unit,
        documents=-(-len(rows) // 5),
        layers=arrays,
        about={NORM_ROWS: chunk} if chunk else {},
    )
    store = MemoryStore()
    writer = store.write_run("run", plan)
    for each in plan.units() if units is None else map(plan.unit, units):
        meter = NormMeter(plan, each.rows)
        numbers = torch.arange(each.start, each.stop)
        with writer.open_unit(each) as writing:
            for part in numbers.split(blocks):  # type: ignore[no-untyped-call]
                some = {name: array[part] for name, array in layers.items()}
                writing.append(
                    RowBlock(tokens=part, documents=part // 5, positions=part % 5, layers=some)
                )
                meter.add(some)
            for name, tensor in meter.tensors().items():
                writing.keep(name, tensor)
            writing.commit({})
    return store.run("run")
