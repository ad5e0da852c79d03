"""What a store does costs the same whatever else is in it: counted in calls, and not in seconds."""

import contextlib
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tenterhook_capture import run_status
from tenterhook_store import NameTaken
from tenterhook_store.testing import a_plan, write
from tenterhook_zarr import ZarrStore


def calls(work: Callable[[], object]) -> int:
    """Return how many Python functions were called."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    gc.collect()
    gc.disable()  # what it frees may call functions, whenever it runs
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


def filled(folder: Path, tensors: int, runs: int) -> ZarrStore:
    """Return a store of so many tensors and runs; the folders are copies of one."""
    store = ZarrStore(folder)
    store.save_tensor("d/0", torch.zeros(3))
    for number in range(1, tensors):
        shutil.copytree(folder / "tensors/d%2F0", folder / f"tensors/d%2F{number}")
    plan = a_plan()
    write(store.write_run("r0", plan), plan.units()[:1])
    for number in range(1, runs):
        shutil.copytree(folder / "runs/r0", folder / f"runs/r{number}")
    return store


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ZarrStore, ZarrStore]:
    """Return a store of ten tensors and runs, and one of three hundred."""
    return filled(tmp_path / "few", 10, 10), filled(tmp_path / "many", 300, 300)


def test_a_run_of_many_is_opened_as_one_of_few(stores: tuple[ZarrStore, ZarrStore]) -> None:
    """And listing them is one look at each."""
    few, many = (calls(partial(store.run, "r7")) for store in stores)
    assert many < few + 100
    few, many = (calls(store.runs) for store in stores)
    assert many <= 30 * few + 100


def test_who_goes_on_with_a_run_of_many_units_looks_at_none(tmp_path: Path) -> None:
    """Ten thousand processes that begin do not list a folder each that has a file for each unit."""
    plan, store = a_plan(rows=600, rows_per_unit=1), ZarrStore(tmp_path)
    for _ in range(2):  # the first and the second time it imports, and fills caches
        store.write_run("r", plan)
    few = calls(partial(store.write_run, "r", plan))
    for folder in ("commits", "kept", "log"):
        for number in range(plan.unit_count):
            (tmp_path / "runs/r" / folder / f"{number:09}.json").touch()
    # Less than a call for each file of one folder; how many threads begin is a matter of timing.
    assert calls(partial(store.write_run, "r", plan)) <= few + 500


def test_opening_a_run_of_many_units_is_a_few_calls_each(tmp_path: Path) -> None:
    """Opening it and saying how far it is follow the units, and read the last two hundred alone."""
    cost = {}
    for units in (300, 3300):
        store, plan = ZarrStore(tmp_path / str(units)), a_plan(rows=units, rows_per_unit=1)
        write(store.write_run("r", plan), plan.units()[:1])
        for folder in ("commits", "log"):
            first = store.path / "runs/r" / folder / "000000.json"
            for number in range(1, units):
                os.link(first, first.with_name(f"{number:06}.json"))
        run_status(store.run("r"))  # imports, and fills caches
        cost[units] = calls(lambda store=store: run_status(store.run("r")))  # type: ignore[misc]
        assert run_status(store.run("r")).units_done == units
    assert cost[3300] - cost[300] < 6 * 3000


def test_looking_at_runs_imports_no_torch(tmp_path: Path) -> None:
    """It would be most of the time that the commands take."""
    plan, store = a_plan(), ZarrStore(tmp_path)
    write(store.write_run("r", plan), plan.units()[:2])
    code = (
        "import sys\nfrom tenterhook_cli import main\n"
        "for command in ('list', 'status', 'show'):\n"
        "    try:\n        main(['runs', command, sys.argv[1]])\n"
        "    except SystemExit as end:\n        assert not end.code\n"
        "assert not {'torch', 'zarr'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("r  ")


def test_saving_a_tensor_beside_many(stores: tuple[ZarrStore, ZarrStore]) -> None:
    """While another process saves some too, one more is looked at, and not all."""

    def beside(store: ZarrStore) -> int:
        other = ZarrStore(store.path)
        for each in (store, other):
            each.save_tensor("x/0", torch.zeros(1))
        other.save_tensor("x/1", torch.zeros(1))
        return calls(lambda: store.save_tensor("x/2", torch.zeros(1)))

    few, many = map(beside, stores)
    assert many - few < 300


def test_what_another_process_saves_and_deletes_is_known(tmp_path: Path) -> None:
    """A name that is one with another where case is ignored is refused as long as that is there."""
    one, other = ZarrStore(tmp_path), ZarrStore(tmp_path)
    one.save_tensor("a", torch.zeros(1))
    long = "x" * 180
    for name in ("b/é", long):
        other.save_tensor(name, torch.zeros(1))
        with pytest.raises(NameTaken, match="file systems take for the same"):
            one.save_tensor(name.upper(), torch.zeros(1))
        other.delete_tensor(name)
        one.save_tensor(name.upper(), torch.zeros(1))
        with pytest.raises(NameTaken, match="file systems take for the same"):
            other.save_tensor(name, torch.zeros(1))


def test_a_folder_without_a_name_yet_is_looked_at_again(tmp_path: Path) -> None:
    """A long name is in the record alone, which comes after the folder."""
    one, other = ZarrStore(tmp_path), ZarrStore(tmp_path)
    long = "x" * 180
    other.save_tensor(long, torch.zeros(1))
    one.save_tensor("a", torch.zeros(1))
    (folder,) = (path for path in (tmp_path / "tensors").iterdir() if path.name != "a")
    record = (folder / "current.json").read_bytes()
    (folder / "current.json").unlink()
    fresh = ZarrStore(tmp_path)
    fresh.save_tensor("b", torch.zeros(1))
    (folder / "current.json").write_bytes(record)
    with contextlib.suppress(FileNotFoundError):
        os.utime(tmp_path / "tensors")
    with pytest.raises(NameTaken, match="file systems take for the same"):
        fresh.save_tensor(long.upper(), torch.zeros(1))
