"""Units of runs with a limit that were dropped, on the disk."""

import shutil
from pathlib import Path

import pytest

from tenterhook_store import DamagedStore, DroppedRows
from tenterhook_store.testing.small_runs import rows_of, same_bits, write
from tenterhook_store.testing.store_dropping import limited_plan
from tenterhook_zarr import ZarrStore

PLAN = limited_plan()


@pytest.fixture
def store(tmp_path: Path) -> ZarrStore:
    """A store with a whole run that has a limit."""
    store = ZarrStore(tmp_path / "store")
    write(store.write_run("run", PLAN), PLAN.units())
    return store


def shards(store: ZarrStore) -> set[str]:
    """Return the files of rows, by their path in the run."""
    run = Path(store.location, "runs/run")
    files = run.glob("arrays/**/c/**/*")
    return {path.relative_to(run).as_posix() for path in files if path.is_file()}


def test_a_dropped_unit_takes_no_room(store: ZarrStore) -> None:
    """Its shards are gone, of every array; those of others stay, and what it keeps beside."""
    before = shards(store)
    store.drop_unit("run", 1)
    gone = {name for name in before if name.split("/c/")[1].split("/")[0] == "1"}
    assert len(gone) == 5
    assert shards(store) == before - gone


def test_a_drop_that_was_cut_short_is_ended(store: ZarrStore, tmp_path: Path) -> None:
    """Killed between the record and the rows: they count as gone, no file is damaged, and whoever
    writes next removes them."""
    shutil.copytree(store.location, tmp_path / "before")
    store.drop_unit("run", 0)
    left = shards(store)
    run = Path(store.location, "runs/run")
    shutil.copytree(tmp_path / "before/runs/run/arrays", run / "arrays", dirs_exist_ok=True)
    assert len(shards(store)) > len(left)
    with pytest.raises(DroppedRows, match="Row 0 is of unit 0"):
        store.run("run")["h.0"][0]
    assert store.verify_run("run") == []
    store.write_run("run", PLAN)
    assert shards(store) == left
    expected = rows_of(PLAN, 8, 20).layers["h.1"]
    assert same_bits(store.run("run")["h.1"][8:20], expected)


def test_a_record_of_another_run_drops_nothing(store: ZarrStore) -> None:
    """It is named by verify, and nothing is removed because of it."""
    store.drop_unit("run", 0)
    record = Path(store.location, "runs/run/dropped/000000.json")
    record.with_name("000001.json").write_bytes(record.read_bytes())
    problems = store.verify_run("run")
    assert [each.unit for each in problems] == [1]
    assert "it is of unit 0 and should be of 1" in str(problems[0])
    left = shards(store)
    with pytest.raises(DamagedStore, match="it is of unit 0 and should be of 1"):
        store.write_run("run", PLAN)
    with pytest.raises(DamagedStore, match="it is of unit 0 and should be of 1"):
        store.drop_unit("run", 1)
    assert shards(store) == left


def test_a_record_of_a_unit_that_was_never_there(store: ZarrStore) -> None:
    """Verify says so."""
    store.drop_unit("run", 2)
    Path(store.location, "runs/run/commits/000002.json").unlink()
    (problem,) = store.verify_run("run")
    assert (problem.unit, "dropped which is not committed" in problem.cause) == (2, True)
