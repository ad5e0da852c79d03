"""How long the chunks of a unit are, and that a run keeps those that it was begun with."""

import math
from pathlib import Path

import pytest
import torch
import zarr

from tenterhook_store import LayerArray, RowBlock, RunPlan, RunWriter
from tenterhook_zarr import ZarrStore


def a_plan(per_unit: int, rows: int | None = None) -> RunPlan:
    """Return a plan of one layer of three features."""
    layers = [LayerArray("x", 3, "float32")]
    return RunPlan(rows=rows or per_unit, rows_per_unit=per_unit, documents=1, layers=layers)


def write(writer: RunWriter, *units: int) -> None:
    """Commit units whose rows are their numbers."""
    for unit in map(writer.plan.unit, units):
        rows = torch.arange(unit.start, unit.stop)
        layers = {"x": rows[:, None].float().expand(-1, 3)}
        with writer.open_unit(unit) as writing:
            writing.append(RowBlock(tokens=rows, documents=rows * 0, positions=rows, layers=layers))
            writing.commit({})


def chunks(folder: Path) -> tuple[int, int]:
    """Return the rows of a chunk of the layer, and of the tokens, as zarr reads them."""
    group = zarr.open_group(folder / "runs/run/arrays", mode="r")
    layer, tokens = group["layers/x"], group["rows/token"]
    assert isinstance(layer, zarr.Array)
    assert isinstance(tokens, zarr.Array)
    return layer.chunks[0], tokens.chunks[0]


@pytest.mark.parametrize(
    ("per_unit", "layer", "tokens"),
    [
        (5, 5, 5),
        (101, 101, 101),
        (256, 256, 256),
        (2000, 250, 2000),
        (32_767, 217, 4681),
        (32_768, 256, 8192),
        (50_000, 250, 6250),
        (257, 1, 257),
    ],
)
def test_a_chunk_divides_its_unit(tmp_path: Path, per_unit: int, layer: int, tokens: int) -> None:
    """It is the largest divisor up to 256 rows of a layer, or 8192 numbers."""
    ZarrStore(tmp_path).write_run("run", a_plan(per_unit))
    assert chunks(tmp_path) == (layer, tokens)


def test_a_run_keeps_its_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with shorter ones, of an earlier version, is gone on with, read and verified."""
    plan = a_plan(500, 1400)
    with monkeypatch.context() as patch:
        patch.setattr("tenterhook_zarr._layout.largest_divisor", math.gcd)
        write(ZarrStore(tmp_path).write_run("run", plan), 1)
    assert chunks(tmp_path) == (4, 4)
    store = ZarrStore(tmp_path)
    writer = store.write_run("run", plan)
    write(writer, 0, 2)
    writer.finish()
    assert chunks(tmp_path) == (4, 4)
    assert torch.equal(store.run("run")["x"][:, 0], torch.arange(1400.0))
    assert store.verify_run("run") == []
