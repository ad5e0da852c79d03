"""Training batches from a run on disk: in other processes, in little memory, with damage told."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tenterhook_store import DamagedStore, ReplacedRun, RunPlan
from tenterhook_store.testing import a_plan, rows_of, same_bits, write
from tenterhook_zarr import ZarrStore

ROWS = 2500


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a store with a run of three shards, of chunks of 256 rows."""
    plan: RunPlan = a_plan(ROWS, 1024, layers=[("h", 6, "bfloat16")])
    writer = ZarrStore(tmp_path).write_run("one", plan)
    write(writer, plan.units(), step=512)
    return tmp_path


@pytest.mark.parametrize(
    ("start", "mixing"), [("spawn", "exact"), ("fork", "exact"), ("fork", "blocks")]
)
def test_workers_of_either_kind(place: Path, start: str, mixing: Any) -> None:
    """Processes that are spawned or forked read the run, each its share, in new orders."""
    run = ZarrStore(place).run("one")
    loader = run.loader("h", 100, mixing=mixing, also=["rows", "tokens"], buffer_rows=500)
    next(iter(loader))  # files are mapped and read before the workers are there
    loader.set_epoch(0)
    data = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context=start)
    expected = rows_of(run.plan, 0, ROWS)
    orders = []
    for _ in range(2 if start == "fork" else 1):
        rows = []
        for batch in data:
            assert same_bits(batch["h"], expected.layers["h"][batch["rows"]])
            assert torch.equal(batch["tokens"], expected.tokens[batch["rows"]].int())
            rows += batch["rows"].tolist()
        assert sorted(rows) == list(range(ROWS))
        orders.append(rows)
    assert start == "spawn" or orders[0] != orders[1]


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))],
    ids=["deep", "pickle"],
)
def test_copies_count_epochs(place: Path, copied: Any) -> None:
    """Workers of a copy hear which epoch it is, as those of the loader do."""
    loader = copied(ZarrStore(place).run("one").loader("h", 100, also=["rows"]))
    data = DataLoader(loader, batch_size=None, num_workers=2)
    first, second = ([row for batch in data for row in batch["rows"].tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second


OPEN_FILES = """
import os, resource, sys
from tenterhook_zarr import ZarrStore

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
run = ZarrStore(sys.argv[1]).run("many")
for mixing in ("exact", "blocks"):
    loader = run.loader(list(run.layers), 500, mixing=mixing, also=["rows"], threads=2)
    rows = [row for batch in loader for row in batch["rows"].tolist()]
    assert sorted(rows) == list(range(len(run)))
print(len(os.listdir("/proc/self/fd")))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_few_files_are_open(tmp_path: Path) -> None:
    """Whatever the layers and the shards, far fewer files are open than a process may have."""
    plan = a_plan(40 * 64, 64, layers=[(f"h.{at}", 2, "float32") for at in range(5)])
    write(ZarrStore(tmp_path).write_run("many", plan), plan.units(), step=64)
    command = [sys.executable, "-c", OPEN_FILES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20


def test_maps_of_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards beyond those that are kept mapped are read as well."""
    monkeypatch.setattr("tenterhook_zarr._direct.MAPS", 3)
    plan = a_plan(20 * 64, 64, layers=[("h", 3, "bfloat16")])
    write(ZarrStore(tmp_path).write_run("many", plan), plan.units(), step=64)
    run = ZarrStore(tmp_path).run("many")
    expected = rows_of(plan, 0, 20 * 64).layers["h"]
    for batch in run.loader("h", 300, mixing="exact", also=["rows"]):
        assert same_bits(batch["h"], expected[batch["rows"]])


@pytest.mark.parametrize("kind", [{}, {"mixing": "exact"}, {"shuffle": False}], ids=str)
def test_damage_stops_the_loader(place: Path, kind: Any) -> None:
    """A byte that was changed is an error that names the file, in each kind of order."""
    path = place / "runs/one/arrays/layers/h/c/1/0"
    content = bytearray(path.read_bytes())
    content[3000] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedStore, match=r"layers/h/c/1/0: rows 0 to 256 of this file"):
        list(ZarrStore(place).run("one").loader("h", 100, **kind))
    unchecked = ZarrStore(place).run("one").loader("h", 100, mixing="exact", check=False)
    assert len(list(unchecked)) == 25


@pytest.mark.parametrize("mixing", ["blocks", "exact"])
def test_compressed_run(tmp_path: Path, mixing: Any) -> None:
    """Runs with a codec go through zarr, with the same batches, and damage is told as well."""
    plan = a_plan(ROWS, 1024, layers=[("h", 6, "bfloat16")], codec="zstd")
    write(ZarrStore(tmp_path).write_run("one", plan), plan.units(), step=512)
    expected = rows_of(plan, 0, ROWS).layers["h"]
    loader = ZarrStore(tmp_path).run("one").loader("h", 100, mixing=mixing, also=["rows"])
    seen = 0
    for batch in loader:
        assert same_bits(batch["h"], expected[batch["rows"]])
        seen += len(batch["rows"])
    assert seen == ROWS
    path = tmp_path / "runs/one/arrays/layers/h/c/1/0"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedStore, match=r"layers/h: rows .* cannot be read"):
        list(ZarrStore(tmp_path).run("one").loader("h", 100, mixing=mixing))


def test_run_that_was_replaced(place: Path) -> None:
    """A process that a run is sent to does not read another one for it."""
    run = ZarrStore(place).run("one")
    sent = pickle.dumps(run.loader("h", 100))
    assert len(pickle.loads(sent)) == 25
    ZarrStore(place).delete_run("one")
    plan = a_plan(ROWS, 512, layers=[("h", 6, "bfloat16")])
    write(ZarrStore(place).write_run("one", plan), plan.units(), step=512)
    match = "'one' is not the one that was opened: .*rows_per_unit is 512 there and 1024 here"
    with pytest.raises(ReplacedRun, match=match):
        pickle.loads(sent)


def test_growing_run(place: Path, tmp_path: Path) -> None:
    """A loader keeps to the rows that were there when its run was opened."""
    plan = a_plan(ROWS, 1024, layers=[("h", 6, "bfloat16")])
    writer = ZarrStore(tmp_path).write_run("two", plan)
    write(writer, plan.units()[:1], step=512)
    run = ZarrStore(tmp_path).run("two")
    loader = run.loader("h", 100)
    write(writer, plan.units()[1:], step=512)
    assert sum(map(len, loader)) == 1024
    assert sum(map(len, ZarrStore(tmp_path).run("two").loader("h", 100))) == ROWS


MEMORY = """
import sys
import torch
torch.set_num_threads(1)
from tenterhook_zarr import ZarrStore

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) // 1024

run = ZarrStore(sys.argv[1]).run("one")
for kind in ({"mixing": "blocks"}, {"mixing": "exact"}, {"shuffle": False}):
    settings = {"buffer_rows": 4096, "threads": 2, **kind}
    for batch in run.loader("h", 512, rows=slice(8192), **settings):
        pass
    before, most = anonymous(), 0
    for batch in run.loader("h", 512, **settings):
        most = max(most, anonymous())
    print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_memory_is_the_buffers(tmp_path: Path) -> None:
    """Of a run of 96 MB, going through all of it takes no more memory than through a part."""
    plan = a_plan(98_304, 16_384, layers=[("h", 256, "float32")])
    write(ZarrStore(tmp_path).write_run("one", plan), plan.units(), step=16_384)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    grown = [int(line) for line in done.stdout.split()]
    assert len(grown) == 3
    assert max(grown) < 16
