"""Disks that fill up or cannot be written, stores that go, bytes that change: for real."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook.errors import TenterhookError
from tenterhook_store import (
    CODECS,
    DamagedStore,
    DeletedRun,
    NotAStore,
    NotWritable,
    RunPlan,
    Store,
    UnknownRun,
)
from tenterhook_store.testing import a_plan, rows_of, same_bits, write
from tenterhook_zarr import ZarrStore


def filled(store: Store, plan: RunPlan | None = None) -> RunPlan:
    """Write a whole run `one`, with kept tensors, a session and a note."""
    plan = plan or a_plan()
    writer = store.write_run("one", plan)
    writer.note_session("s", {"start": "2026-01-01"})
    for unit in plan.units():
        with writer.open_unit(unit) as writing:
            writing.append(rows_of(plan, unit.start, unit.stop))
            writing.keep("mean", torch.full((3,), float(unit.number)))
            writing.commit({"seconds": 1.0})
    writer.finish()
    store.set_attribute("one", "note", "x")
    return plan


def goes_on(store: Store, plan: RunPlan) -> None:
    """Do what is missing, and see that the run is whole."""
    writer = store.write_run("one", plan)
    write(writer, [unit for unit in plan.units() if unit.number not in writer.committed()])
    writer.finish()
    assert store.verify_run("one") == []
    for layer in store.run("one").layers:
        found, expected = store.run("one")[layer][:], rows_of(plan, 0, plan.rows).layers[layer]
        assert same_bits(found, expected)


@contextlib.contextmanager
def mounted(folder: Path, kind: str, *options: str) -> Iterator[None]:
    """Mount a file system of one's own; skip where one may not."""
    folder.mkdir()
    command = ["mount", "-t", kind, "-o", ",".join(options), "tenterhook-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"mounting needs rights that this process lacks: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_disk_that_fills_up(tmp_path: Path) -> None:
    """The error names the unit and a file; what is committed stays and is right; once there is
    room, the same run goes on."""
    disk = tmp_path / "disk"
    plan = a_plan(4096, 256, layers=[("h", 256, "float32")])
    with mounted(disk, "tmpfs", "size=2m"):
        store = ZarrStore(disk / "store")
        writer = store.write_run("one", plan)
        with pytest.raises(NotWritable, match=r"disk/store.*unit \d+ cannot be written \(No space"):
            write(writer, plan.units(), step=100)
        committed = store.run("one").committed
        assert committed == set(range(len(committed)))
        assert len(committed) in range(3, 8)
        assert store.verify_run("one") == []
        with pytest.raises(NotWritable, match="No space left"):
            store.save_tensor("big", torch.ones(2**19))
        assert store.list_tensors() == []
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        goes_on(store, plan)
        assert not list(disk.rglob("*.partial"))


def test_disk_that_becomes_read_only(tmp_path: Path) -> None:
    """The error names the unit; everything is read as before; written again, the run goes on."""
    disk, plan = tmp_path / "disk", a_plan()
    with mounted(disk, "tmpfs", "size=4m"):
        store = ZarrStore(disk / "store")
        writer = store.write_run("one", plan)
        write(writer, plan.units()[:1])
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(NotWritable, match=r"unit 1 cannot be written \(Read-only file system"):
            write(writer, plan.units()[1:])
        for attempt in (
            store.check_writable,
            lambda: store.write_run("one", plan),
            lambda: store.save_tensor("x", torch.ones(1)),
            lambda: store.set_attribute("one", "x", 1),
            lambda: store.delete_run("one"),
        ):
            with pytest.raises(NotWritable, match="Read-only"):
                attempt()
        assert store.run("one").committed == {0}
        assert store.verify_run("one") == []
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        goes_on(store, plan)


@pytest.mark.skipif(not hasattr(os, "fork") or os.name == "nt", reason="needs users and fork")
@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root can be another")
def test_folder_of_another_user(tmp_path: Path) -> None:
    """A user without rights is told, and reads what may be read."""
    plan = a_plan()
    write(ZarrStore(tmp_path / "store").write_run("one", plan), plan.units()[:1])
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o555)
    torch.set_num_threads(1)
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            store = ZarrStore(tmp_path / "store")
            with pytest.raises(NotWritable, match="Permission denied"):
                store.check_writable()
            with pytest.raises(NotWritable, match="Permission denied"):
                store.write_run("one", plan)
            assert len(store.run("one")["h.0"][:]) == 8
            assert store.verify_run("one") == []
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    goes_on(ZarrStore(tmp_path / "store"), plan)


@pytest.mark.parametrize("moment", ["before a unit", "in a unit", "before its commit"])
@pytest.mark.parametrize("what", ["store", "store/runs/one"])
def test_deleted_under_the_writer(tmp_path: Path, moment: str, what: str) -> None:
    """The writer is told at its next step at the latest, and nothing comes back by half."""
    plan, store = a_plan(), ZarrStore(tmp_path / "store")
    writer = store.write_run("one", plan)
    write(writer, plan.units()[:1])

    def go_on() -> None:
        if moment == "before a unit":
            shutil.rmtree(tmp_path / what)
        with writer.open_unit(plan.unit(1)) as writing:
            if moment == "in a unit":
                shutil.rmtree(tmp_path / what)
            writing.append(rows_of(plan, 8, 16))
            if moment == "before its commit":
                shutil.rmtree(tmp_path / what)
            writing.commit({})

    with pytest.raises(DeletedRun, match=r"Run 'one' is gone.*given again"):
        go_on()
    assert store.runs() == []
    with pytest.raises(UnknownRun):
        store.run("one")
    goes_on(ZarrStore(tmp_path / "store"), plan)


def kinds(folder: Path) -> dict[str, Path]:
    """Return a file of each kind that a store has."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {re.sub(r"[0-9a-f]{16}|\d+", "N", str(path.relative_to(folder))): path for path in files}


def test_flipped_byte_in_any_file(tmp_path: Path) -> None:
    """Any byte of any file that is another is found, and said by the file's name; what else is
    there is read as before."""
    store = ZarrStore(tmp_path)
    plan = filled(store)
    store.save_tensor("x", torch.arange(4.0))
    found = kinds(tmp_path)
    assert len(found) >= 20
    for kind, path in found.items():
        content = path.read_bytes()
        for at in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[at] ^= 1
            path.write_bytes(changed)
            assert str(path) in noticed(tmp_path, plan), (kind, at)
            path.write_bytes(content)
    assert store.verify_run("one") == []


def noticed(folder: Path, plan: RunPlan) -> str:
    """Verify the store and read what can be read; return what is said of damage."""
    try:
        store = ZarrStore(folder, create=False)
    except NotAStore as error:
        return f"{error}/tenterhook.json".replace(": its tenterhook.json is not one of a store", "")
    said = [str(problem) for problem in store.verify_run("one")]
    for act in (lambda: store.load_tensor("x"), lambda: store.run("one").metadata):
        try:
            act()
        except (DamagedStore, TenterhookError) as error:
            said.append(str(error))
    for start, stop in ((0, 8), (8, 16), (16, 20)):  # no wrong row is ever handed out
        with contextlib.suppress(DamagedStore):
            for layer in ("h.0", "h.1"):
                expected = rows_of(plan, start, stop).layers[layer]
                assert same_bits(store.run("one")[layer][start:stop], expected)
    return "\n".join(said)


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 8)


def _take_another(path: Path) -> None:
    path.write_bytes((path.parents[1] / "0/0").read_bytes())


@pytest.mark.parametrize("damage", [_remove, _cut, _lengthen, _take_another])
@pytest.mark.parametrize("codec", CODECS)
def test_shard_that_is_not_the_one(
    tmp_path: Path, codec: str, damage: Callable[[Path], None]
) -> None:
    """A shard that is gone, short, long, or another's is a problem of its unit and no other."""
    store = ZarrStore(tmp_path)
    filled(store, a_plan(codec=codec))
    path = tmp_path / "runs/one/arrays/layers/h.0/c/1/0"
    damage(path)
    (problem,) = store.verify_run("one")
    assert (problem.unit, problem.file) == (1, str(path))
    assert problem.cause
    assert str(problem) == f"unit 1: {path}: {problem.cause}"


def test_what_no_plan_has(tmp_path: Path) -> None:
    """Shards and records beyond the plan are problems."""
    store = ZarrStore(tmp_path)
    filled(store)
    run = tmp_path / "runs/one"
    shutil.copytree(run / "arrays/rows/token/c/../c", run / "copy")
    shutil.copy(run / "copy/0", run / "arrays/rows/token/c/7")
    shutil.copy(run / "commits/000000.json", run / "commits/000009.json")
    found = {(problem.unit, problem.file) for problem in store.verify_run("one")}
    assert found == {
        (None, str(run / "arrays/rows/token/c/7")),
        (9, str(run / "commits/000009.json")),
    }


@pytest.mark.parametrize("codec", CODECS)
def test_codecs(tmp_path: Path, codec: str) -> None:
    """Whatever compresses them, rows come back, in zarr alone too; another codec is another run."""
    import zarr

    store, plan = ZarrStore(tmp_path), a_plan(600, 256, codec=codec)
    write(store.write_run("one", plan), plan.units(), step=100)
    goes_on(store, plan)
    array: Any = zarr.open_array(tmp_path / "runs/one/arrays/layers/h.0", mode="r")
    assert array[...].tolist() == rows_of(plan, 0, 600).layers["h.0"].tolist()
    assert store.run("one")["h.1"][[599, 3, 300]].shape == (3, 5)
    other = "zstd" if codec != "zstd" else "none"
    with pytest.raises(ValueError, match=f"codec is '{codec}' there and '{other}' here"):
        store.write_run("one", a_plan(600, 256, codec=other))


def test_codec_that_there_is_not() -> None:
    """It is refused with those there are."""
    with pytest.raises(ValueError, match="codec='zip' is none of none, zstd, blosc"):
        a_plan(codec="zip")


def test_folders_that_a_removal_left(tmp_path: Path) -> None:
    """Empty folders are no store and nothing else either: one is begun there anew."""
    (tmp_path / "store/runs/one/commits").mkdir(parents=True)
    plan = a_plan()
    store = ZarrStore(tmp_path / "store")
    assert store.runs() == []
    write(store.write_run("one", plan), plan.units())
    assert store.run("one").is_complete
