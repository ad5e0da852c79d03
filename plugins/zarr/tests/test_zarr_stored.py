"""A run that an earlier version wrote and that lies in the repository: it must stay readable.

`python test_zarr_stored.py FOLDER` writes one anew, for a format that is new; those that are there
stay as they are.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tenterhook_store import LayerArray, RowBlock, RunPlan
from tenterhook_store.testing import same_bits
from tenterhook_zarr import ZarrStore

DATA = Path(__file__).with_name("data")
STORES = sorted(DATA.glob("store-*"))
CODECS = {"plain": "none", "small": "zstd", "shuffled": "blosc"}
ROWS, PER_UNIT = 600, 256


def plan_of(codec: str) -> RunPlan:
    """Return what the runs hold."""
    layers = [LayerArray("h.0", 8, "bfloat16"), LayerArray("odd/Ü name", 4, "float32")]
    spec = {"seed": 1}
    return RunPlan(
        rows=ROWS, rows_per_unit=PER_UNIT, documents=60, layers=layers, spec=spec, codec=codec
    )


def rows_of(start: int, stop: int) -> RowBlock:
    """Return what is in these rows: every bit pattern of bfloat16 in turn, and odd floats."""
    rows = torch.arange(start, stop)
    bits = (rows[:, None] * 8 + torch.arange(8)) * 137 % 65536
    floats = (rows[:, None] * 4 + torch.arange(4)).double().div(7).sin().float()
    floats[rows % 50 == 7] = float("-inf")
    return RowBlock(
        tokens=rows * 3,
        documents=rows // 10,
        positions=rows % 10,
        layers={
            "h.0": bits.to(torch.uint16).view(torch.bfloat16),
            "odd/Ü name": floats,
        },
    )


KEPT = {
    "mean": torch.tensor([1.5, float("nan"), -0.0], dtype=torch.bfloat16),
    "odd/Ü covariance": torch.arange(9, dtype=torch.float64).reshape(3, 3) / 7,
    "count": torch.tensor(256),
}
TENSORS = {
    "direction": torch.linspace(-1, 1, 7, dtype=torch.float32),
    "a/b": torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16),
}


def make(folder: Path) -> None:
    """Write the store: three runs, each with its last unit not committed.

    Of `plain`, the last unit is there but for its record, as a process leaves it that is killed.
    """
    store = ZarrStore(folder)
    for name, tensor in TENSORS.items():
        store.save_tensor(name, tensor)
    for run_id, codec in CODECS.items():
        plan = plan_of(codec)
        writer = store.write_run(run_id, plan)
        writer.note_session("s1", {"start": "2026-01-01T00:00:00+00:00", "end": None})
        for unit in plan.units()[:2]:
            with writer.open_unit(unit) as writing:
                writing.append(rows_of(unit.start, unit.stop))
                if not unit.number:
                    for name, tensor in KEPT.items():
                        writing.keep(name, tensor)
                writing.commit({"seconds": 1.25})
        if run_id == "plain":
            with writer.open_unit(plan.unit(2)) as writing:
                writing.append(rows_of(512, 600))
                writing.commit({})
            (folder / "runs/plain/commits/000002.json").unlink()
        store.set_attribute(run_id, "note", "written for the tests, ü")


def test_there_is_one() -> None:
    """At least one store was written by a version before this one."""
    assert STORES


@pytest.mark.parametrize("folder", STORES, ids=lambda path: path.name)
@pytest.mark.parametrize("run_id", CODECS)
def test_stored_run_is_read(folder: Path, run_id: str) -> None:
    """Rows, kept tensors, notes and records are what was written, to the bit."""
    store = ZarrStore(folder, create=False)
    assert store.runs() == sorted(CODECS)
    run = store.run(run_id)
    expected = rows_of(0, 512)
    assert (len(run), set(run.committed), run.is_complete) == (512, {0, 1}, False)
    for layer in run.layers:
        assert same_bits(run[layer][:], expected.layers[layer])
        assert same_bits(run[layer][[511, 3, 300]], expected.layers[layer][[511, 3, 300]])
    assert run.tokens[:].tolist() == expected.tokens.tolist()
    assert run.documents.rows(7) == slice(70, 80)
    assert run.unit_tensors(0) == sorted(KEPT)
    for name, tensor in KEPT.items():
        assert same_bits(run.unit_tensor(0, name), tensor)
    assert run.unit_tensors(1) == []
    assert run.attributes == {"note": "written for the tests, ü"}
    assert [unit["seconds"] for unit in run.metadata["units"]] == [1.25, 1.25]
    assert run.metadata["start"].startswith("2026-01-01")
    assert run.plan == plan_of(CODECS[run_id])
    assert store.verify_run(run_id) == []


@pytest.mark.parametrize("folder", STORES, ids=lambda path: path.name)
def test_stored_tensors_are_read(folder: Path) -> None:
    """Tensors by name too."""
    store = ZarrStore(folder, create=False)
    assert store.list_tensors() == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert same_bits(store.load_tensor(name), tensor)


PLAIN = """
import json, sys
import numpy as np
sys.modules["tenterhook"] = sys.modules["tenterhook_zarr"] = None
import zarr
from safetensors import safe_open

run = sys.argv[1]
group = zarr.open_group(f"{run}/arrays", mode="r")
kept = safe_open(f"{run}/kept/000000.safetensors", framework="np")
names = {array.attrs["layer"]: array for _, array in group["layers"].arrays()}
print(json.dumps({
    "bits": names["h.0"][:512].tolist(),
    "dtype": names["h.0"].attrs["torch_dtype"],
    "floats": names["odd/Ü name"][:512].view("uint32").tolist(),
    "missing": bool(np.isnan(names["odd/Ü name"][512:]).all()),
    "token": group["rows/token"][:512].tolist(),
    "count": kept.get_tensor("count").tolist(),
    "units": json.load(open(f"{run}/commits/000001.json"))["rows"],
}))
"""


@pytest.mark.parametrize("folder", STORES, ids=lambda path: path.name)
@pytest.mark.parametrize("run_id", CODECS)
def test_stored_run_is_read_without_tenterhook(folder: Path, run_id: str) -> None:
    """zarr, numpy and safetensors are enough."""
    command = [sys.executable, "-W", "ignore", "-c", PLAIN, str(folder / "runs" / run_id)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = rows_of(0, 512)
    assert json.loads(done.stdout) == {
        "bits": expected.layers["h.0"].view(torch.uint16).tolist(),
        "dtype": "bfloat16",
        "floats": expected.layers["odd/Ü name"].view(torch.uint32).tolist(),
        "missing": run_id != "plain",
        "token": expected.tokens.tolist(),
        "count": 256,
        "units": [256, 512],
    }


@pytest.mark.parametrize("folder", STORES, ids=lambda path: path.name)
def test_stored_run_goes_on(folder: Path, tmp_path: Path) -> None:
    """A run that an earlier version began can be finished."""
    copied = tmp_path / "store"
    for path in folder.rglob("*"):
        if path.is_file():
            target = copied / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    store = ZarrStore(copied)
    plan = plan_of("none")
    writer = store.write_run("plain", plan)
    with writer.open_unit(plan.unit(2)) as writing:
        writing.append(rows_of(512, 600))
        writing.commit({})
    writer.finish()
    assert store.verify_run("plain") == []
    assert same_bits(store.run("plain")["h.0"][:], rows_of(0, 600).layers["h.0"])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
