"""Stores that somebody else made: what is no file of the store is told, and nothing hangs."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
import torch

from tenterhook_cli import main
from tenterhook_store import (
    DamagedStore,
    DeletedRun,
    LayerArray,
    NameTaken,
    RunPlan,
    UnknownRun,
    find_run,
)
from tenterhook_store.testing import a_plan, rows_of
from tenterhook_zarr import ZarrStore
from tenterhook_zarr import _inside as inside
from tenterhook_zarr._files import LocalFiles
from tenterhook_zarr._folder import plan_record
from tenterhook_zarr._records import sealed
from tenterhook_zarr._writer import begin_run

LARGE = 2**60
FILES = [
    "plan.json",
    "commits/000000.json",
    "log/000000.json",
    "sessions/s.json",
    "attributes/note.json",
    "arrays/layers/h.0/zarr.json",
    "arrays/layers/h.0/c/0/0",
    "kept/000000.safetensors",
]


def filled(folder: Path, codec: str = "none") -> Path:
    """Write a run of three units with everything a run can have; return its folder."""
    store = ZarrStore(folder)
    plan = a_plan(codec=codec)
    writer = store.write_run("one", plan)
    writer.note_session("s", {"start": "2026-01-01T00:00:00+00:00", "end": None})
    for unit in plan.units():
        with writer.open_unit(unit) as writing:
            writing.append(rows_of(plan, unit.start, unit.stop))
            writing.keep("mean", torch.ones(3))
            writing.commit({"seconds": 1.5})
    store.set_attribute("one", "note", "x")
    return folder / "runs/one"


def look_at_all(folder: Path) -> None:
    """Read everything that a run has."""
    run = ZarrStore(folder, create=False).run("one")
    for layer in run.layers:
        run[layer][:]
        run[layer][[3, 1]]
    for unit in range(3):
        for name in run.unit_tensors(unit):
            run.unit_tensor(unit, name)
    assert run.metadata["complete"]


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """End the process where a test waits: nothing else ends a read of a pipe."""
    timer = threading.Timer(60, lambda: os._exit(3))
    timer.start()
    yield
    timer.cancel()


def a_pipe(path: Path) -> None:
    """Make one that nobody writes to."""
    os.mkfifo(path)


def a_device(path: Path) -> None:
    """Make a link to what has no end."""
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    """Make a folder."""
    path.mkdir()


def a_circle(path: Path) -> None:
    """Make a link to itself."""
    path.symlink_to(path)


def a_link_out(path: Path) -> None:
    """Make a link to a file beside the store."""
    outside = path.parents[len(path.parts) - 1 - path.parts.index("store")] / "outside"
    outside.write_bytes(b"{}")
    path.symlink_to(outside)


def a_link_to_nothing(path: Path) -> None:
    """Make a link to a file of the store that there is not."""
    path.symlink_to(path.with_name("nothing"))


def a_large_file(path: Path) -> None:
    """Make a file that is longer than any disk, and takes no room."""
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize(
    "make",
    [a_pipe, a_device, a_folder, a_circle, a_link_out, a_link_to_nothing, a_large_file],
    ids=lambda make: make.__name__,
)
def test_what_is_no_file_of_the_store(
    tmp_path: Path, make: Callable[[Path], None], codec: str
) -> None:
    """In any place, it is `DamagedStore` with its name: for who reads, and for `verify`."""
    filled(tmp_path / "whole", codec)
    for name in FILES:
        folder = tmp_path / name.replace("/", "-") / "store"
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / "runs/one" / name
        path.unlink()
        make(path)
        with pytest.raises(DamagedStore, match=path.name):
            look_at_all(folder)
        problems = ZarrStore(folder).verify_run("one")
        assert any(each.file == str(path) for each in problems), problems
        assert ZarrStore(folder).runs() == ["one"]


def test_what_may_be_linked(tmp_path: Path) -> None:
    """A store that is reached through a link is read, and so is a link to a file inside it."""
    run = filled(tmp_path / "store")
    log = run / "log/000000.json"
    log.rename(run / "log-of-0.json")
    log.symlink_to(run / "log-of-0.json")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    look_at_all(tmp_path / "link")


@pytest.mark.parametrize("place", ["runs/one", "runs", "runs/one/arrays", "runs/one/commits"])
def test_folders_that_lead_out(tmp_path: Path, place: str) -> None:
    """Nothing is read or written through a folder that is somewhere else, and nothing goes there.

    The link itself can be removed."""
    filled(tmp_path / "store")
    outside = tmp_path / "outside"
    (tmp_path / "store" / place).rename(outside)
    (tmp_path / "store" / place).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    with pytest.raises(DamagedStore, match=r"a link leads out of the store, to .*outside"):
        look_at_all(tmp_path / "store")
    if place != "runs":
        ZarrStore(tmp_path / "store").delete_run("one")
        assert not os.listdir(tmp_path / "store/runs")
    assert sorted(outside.rglob("*")) == before


def test_attributes_that_lead_out(tmp_path: Path) -> None:
    """What is noted on a run is not written outside of its store."""
    run = filled(tmp_path / "store")
    (run / "attributes/note.json").unlink()
    (run / "attributes").rmdir()
    (tmp_path / "outside").mkdir()
    (run / "attributes").symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedStore, match="leads out of the store"):
        ZarrStore(tmp_path / "store").set_attribute("one", "x", 1)
    assert not list((tmp_path / "outside").iterdir())


def test_a_file_of_another_user(tmp_path: Path) -> None:
    """What may not be read is said of the file."""
    if os.name == "nt" or not os.geteuid():
        pytest.skip("whoever runs this may read everything")
    run = filled(tmp_path)
    (run / "plan.json").chmod(0)
    with pytest.raises(DamagedStore, match=r"plan.json: this file cannot be read: Permission"):
        ZarrStore(tmp_path).run("one")


def test_a_file_longer_than_it_may_be(tmp_path: Path) -> None:
    """A record has no more bytes than any of ours."""
    run = filled(tmp_path)
    os.truncate(run / "plan.json", inside.LARGEST + 1)
    with pytest.raises(DamagedStore, match="67,108,865 bytes, and 67,108,864 are the most"):
        ZarrStore(tmp_path).run("one")


ODD: list[str | bytes] = ["\x1b[31mred", "a b ", "run\nline", "nul", "a\u202eb", b"\xff\xfe"]


def test_folders_that_can_be_no_run(tmp_path: Path) -> None:
    """They are said and left out, and the others are listed and read."""
    run = filled(tmp_path)
    made = 0
    for name in ODD:
        folder = os.path.join(os.fsencode(run.parent), os.fsencode(name))
        try:
            os.mkdir(folder)
        except OSError:
            continue
        Path(os.fsdecode(folder), "plan.json").write_bytes((run / "plan.json").read_bytes())
        made += 1
    with pytest.warns(UserWarning, match="has a folder that is left out") as said:
        assert ZarrStore(tmp_path).runs() == ["one"]
    assert len(said) == made
    command = [sys.executable, "-m", "tenterhook", "runs", "list", str(tmp_path)]
    done = subprocess.run(command, capture_output=True)
    assert (done.returncode, done.stdout.count(b"complete")) == (0, 1)
    assert b"warning: " in done.stderr
    assert b"\x1b" not in done.stderr


def test_one_damaged_run_beside_others(tmp_path: Path) -> None:
    """It is an error that names its file, and the others are listed."""
    filled(tmp_path)
    (tmp_path / "runs/bad").mkdir()
    (tmp_path / "runs/bad/plan.json").write_bytes(b"[" * 100_000)
    command = [sys.executable, "-m", "tenterhook", "runs", "list", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("complete")) == (1, 1)
    assert "bad/plan.json: this is no record of ours (it is nested too deeply)" in done.stderr


def test_a_damaged_tensor_beside_others(tmp_path: Path) -> None:
    """It is said and left out of the list."""
    store = ZarrStore(tmp_path)
    store.save_tensor("good", torch.ones(1))
    store.save_tensor("bad", torch.ones(1))
    (tmp_path / "tensors/bad/current.json").write_bytes(b"{}")
    with pytest.warns(UserWarning, match=r"A tensor is left out: .*bad/current.json"):
        assert store.list_tensors() == ["good"]


def planned(folder: Path, **settings: Any) -> None:
    """Put a plan where a run would be, and nothing else."""
    plan = RunPlan(documents=1, layers=[LayerArray("h", 8, "float32")], **settings)
    (folder / "runs/large/commits").mkdir(parents=True)
    (folder / "runs/large/plan.json").write_bytes(plan_record(plan))


@pytest.mark.parametrize("per_unit", [1, 2**40])
def test_work_follows_what_is_there(tmp_path: Path, per_unit: int) -> None:
    """A plan of very many units takes no more time or memory than one of a few."""
    filled(tmp_path)
    planned(tmp_path, rows=LARGE, rows_per_unit=per_unit)
    began = time.perf_counter()
    run = ZarrStore(tmp_path).run("large")
    count = LARGE // per_unit
    assert (len(run), run.rows_committed, len(run.missing)) == (0, 0, count)
    assert (run.missing[0], run.missing[-1]) == (0, count - 1)
    assert not run.metadata["complete"]
    assert ZarrStore(tmp_path).verify_run("large") == []
    for command in ("list", "status large", "show large", "verify large", "delete large --yes"):
        name, *more = command.split()
        with pytest.raises(SystemExit) as ended:
            main(["runs", name, str(tmp_path), *more])
        assert ended.value.code == 0
    assert time.perf_counter() - began < 60


def test_numbers_that_no_run_has(tmp_path: Path) -> None:
    """A plan of more rows than can be counted is none."""
    filled(tmp_path)
    planned(tmp_path, rows=2**200, rows_per_unit=2**199)
    with pytest.raises(DamagedStore, match=r"large/plan.json: this is no plan of a run .*rows"):
        ZarrStore(tmp_path).run("large")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": "8"}, "expected int @ \\$.rows"),
        ({"rows": True}, "expected int @ \\$.rows"),
        ({"layers": "ab"}, "expected tuple @ \\$.layers"),
        ({"layers": [{"name": "a", "features": 2, "dtype": "load"}]}, "load"),
        ({"spec": 5}, "expected a mapping"),
        ({"more": 1}, "extra fields found \\(more\\)"),
        ({"about": {"x": float("nan")}}, ""),
    ],
)
def test_a_plan_of_other_types(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """A plan whose seal is right and whose values are not is `DamagedStore`, with its name."""
    run = filled(tmp_path)
    facts = json.loads((run / "plan.json").read_text())
    del facts["crc32c"]
    (run / "plan.json").write_bytes(sealed({**facts, **change}))
    if not reason:  # JSON has no NaN, and what is written is null
        assert ZarrStore(tmp_path).run("one").plan.about == {"x": None}
        return
    with pytest.raises(DamagedStore, match=f"plan.json: this is no plan of a run .*{reason}"):
        ZarrStore(tmp_path).run("one")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1e999}', "1e999 is no number that a float can hold"),
        ('{"a": ' + "9" * 400 + "}", "a number has 400 digits"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"a": 1, "a": 2}', "a name is twice in one object"),
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("[" * 10**6, "nested too deeply"),
        ("[]", "a list and no object"),
        ("\ufeff{}", "BOM"),
        ("", "Expecting value"),
    ],
)
@pytest.mark.parametrize("name", ["sessions/s.json", "attributes/note.json"])
def test_json_that_is_none_of_ours(tmp_path: Path, name: str, text: str, reason: str) -> None:
    """What no record of ours says is told by who reads it."""
    run = filled(tmp_path)
    (run / name).write_text(text, encoding="utf-8")
    with pytest.raises(DamagedStore, match=f"{name}: this is no record of ours .*{reason}"):
        ZarrStore(tmp_path).run("one").metadata["start"]


def test_a_run_that_was_planned_alone(tmp_path: Path) -> None:
    """A run is healthy from its plan on, whatever of its files is there yet."""
    filled(tmp_path)
    planned(tmp_path, rows=8, rows_per_unit=4)
    store = ZarrStore(tmp_path)
    run = store.run("large")
    assert (len(run), run["h"][0:0].shape, len(run.tokens)) == (0, (0, 8), 0)
    assert list(run.loader("h", 4, missing="skip")) == []
    assert store.verify_run("large") == []


def test_deleted_while_it_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins a run that another deletes then is told so, and leaves nothing."""
    store = ZarrStore(tmp_path)
    real = begin_run.__globals__["_lay_out"]

    def race(folder: Any) -> None:
        store.delete_run("one")
        real(folder)

    monkeypatch.setitem(begin_run.__globals__, "_lay_out", race)
    with pytest.raises(DeletedRun, match="'one'"):
        store.write_run("one", a_plan())
    assert not list(tmp_path.rglob("one"))


def test_staging_is_of_the_process_alone(tmp_path: Path) -> None:
    """Nobody else may look at rows that are not written yet."""
    plan = a_plan()
    writer = ZarrStore(tmp_path).write_run("one", plan)
    with writer.open_unit(plan.unit(0)):
        (own,) = (tmp_path / "runs/one/.writing").iterdir()
        assert own.stat().st_mode & 0o777 == 0o700


def test_names_beside_many_others(tmp_path: Path) -> None:
    """Names that are taken for each other are told, of tensors saved since and by others."""
    store, other = ZarrStore(tmp_path), ZarrStore(tmp_path)
    store.save_tensor("Größe/a", torch.ones(1))
    other.save_tensor("x" * 180, torch.ones(1))
    for name in ("größe/a", "GRÖSSE/a".replace("SS", "ß"), "gro\u0308ße/A", "X" * 180):
        with pytest.raises(NameTaken, match="some file systems take for the same"):
            store.save_tensor(name, torch.ones(1))
    store.delete_tensor("Größe/a")
    store.save_tensor("größe/a", torch.ones(1))
    store.write_run("Run", a_plan())
    with pytest.raises(NameTaken, match="'Run'"):
        other.write_run("run", a_plan())
    with pytest.raises(UnknownRun, match="'run'"):
        find_run(tmp_path, "run")


def test_listing_and_saving_read_no_more_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a run lists no other run, and saving a tensor reads no other tensor."""
    store = ZarrStore(tmp_path)
    for at in range(20):
        store.save_tensor(f"t{at}", torch.ones(1))
        store.write_run(f"r{at}", a_plan())
    read, listed = list[str](), list[str]()
    real_read, real_names = LocalFiles.read, LocalFiles.names

    def reading(files: LocalFiles, path: PurePath, *more: Any) -> bytes:
        read.append(path.parent.name)
        return real_read(files, path, *more)

    def listing(files: LocalFiles, folder: PurePath) -> list[str]:
        listed.append(folder.name)
        return real_names(files, folder)

    monkeypatch.setattr(LocalFiles, "read", reading)
    monkeypatch.setattr(LocalFiles, "names", listing)
    store.save_tensor("new", torch.ones(1))
    store.run("r7")
    assert set(read) <= {"new", "r7"}
    assert not {"tensors", "runs"} & set(listed)
