"""Several processes and threads at one folder at once."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook_store import DamagedStore, NoStore, NotWritable
from tenterhook_store.testing import a_plan, write
from tenterhook_zarr import ZarrStore, _tensors, _writer
from tenterhook_zarr._files import move

pytestmark = pytest.mark.matrix(sample=5)

HEAD = """
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
import torch
from tenterhook_store import LayerArray, OtherRun, RunPlan, UnknownTensor
from tenterhook_zarr import ZarrStore
folder, number, others = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def meet(step):
    (folder / f"here-{step}-{number}").touch()
    while len(list(folder.glob(f"here-{step}-*"))) < others:
        time.sleep(0.0005)
"""

SAVE = """
for step in range(20):
    meet(step)
    # In every other round, all have the same to save.
    value = float(number if step % 2 else 7)
    ZarrStore(folder / f"store-{step % 5}").save_tensor("x", torch.full((50, 3), value))
"""

READ_AND_WRITE = """
store = ZarrStore(folder / "store")
store.save_tensor("x", torch.full((300,), 1.0))
meet("start")
end = time.monotonic() + 1
count = 0
while time.monotonic() < end:
    count += 1
    if number:
        found = store.load_tensor("x")
        assert found.shape == (300,), found.shape
        assert found.isfinite().all() and found.min() == found.max(), found
    else:
        store.save_tensor("x", torch.full((300,), float(count)))
assert count > 5
"""

BEGIN = """
def begin(step):
    plan = RunPlan(rows=4, rows_per_unit=4, documents=1,
                   layers=[LayerArray("h", features=1 + number % 2, dtype="float32")])
    place = "one" if step % 2 else f"store-{step}"
    try:
        writer = ZarrStore(folder / place).write_run(f"run-{step}", plan)
    except OtherRun:
        return "other"
    write(writer, plan.units())
    writer.finish()
    return f"features={1 + number % 2}"

from tenterhook_store.testing import write
for step in range(8):
    meet(step)
    print(begin(step), flush=True)
"""


FAIL = """
import os
from tenterhook_store import NotWritable
from tenterhook_zarr import _files
plan = RunPlan(rows=4, rows_per_unit=4, documents=1, layers=[LayerArray("h", 1, "float32")])
real = os.fsync
def full(descriptor):
    full.left -= 1
    if full.left == 0:
        raise OSError(28, "No space left on device")
    real(descriptor)
for step in range(24):
    meet(step)
    store, full.left = folder / f"store-{step}", -1 if number else 1 + step // 2
    os.fsync = full
    try:
        ZarrStore(store).save_tensor(f"x{number}", torch.ones(2))
        ZarrStore(store).write_run(f"run-{number}", plan)
        done = True
    except NotWritable:
        done = False
    os.fsync = real
    print(int(done), flush=True)
"""


def together(code: str, folder: Path, processes: int) -> list[list[str]]:
    """Run the code in several processes; return the lines that each printed."""
    command = [sys.executable, "-W", "ignore", "-c", HEAD + textwrap.dedent(code), str(folder)]
    running = [
        subprocess.Popen(
            [*command, str(number), str(processes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for number in range(processes)
    ]
    while any(each.poll() is None for each in running):  # one that fails is waited for by others
        if any(each.poll() for each in running):
            for each in running:
                each.kill()
        time.sleep(0.01)
    ended = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0] * processes, ended
    return [out.split() for out, _ in ended]


def test_saving_one_name_in_several_processes(tmp_path: Path) -> None:
    """Whoever comes last, the tensor is whole, and what was replaced is gone."""
    together(SAVE, tmp_path, 3)
    for step in range(5):
        found = ZarrStore(tmp_path / f"store-{step}").load_tensor("x")
        assert found.shape == (50, 3)
        assert found.min() == found.max()
        names = [path.name for path in (tmp_path / f"store-{step}/tensors/x").iterdir()]
        assert len(names) == 2, names


def test_saving_one_name_in_several_threads(tmp_path: Path) -> None:
    """The same, for threads that share a store."""
    store = ZarrStore(tmp_path / "store")
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def save(number: int) -> None:
        try:
            for step in range(10):
                barrier.wait(30)
                store.save_tensor(f"x{step}", torch.full((9,), float(number // 2)))
        except BaseException as error:  # noqa: BLE001 - it is shown by the test
            barrier.abort()
            failures.append(error)

    threads = [threading.Thread(target=save, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for step in range(10):
        assert store.load_tensor(f"x{step}").tolist() in ([0.0] * 9, [1.0] * 9)
        assert len(list((tmp_path / f"store/tensors/x{step}").iterdir())) == 2


def test_saving_while_another_is_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array that is being written, and one that was made current meanwhile, stay."""
    store = ZarrStore(tmp_path)
    put = move

    def interrupted(claim: Path, path: Path) -> None:
        monkeypatch.setattr(_tensors, "move", put)
        store.save_tensor("x", torch.tensor(2.0))
        put(claim, path)

    monkeypatch.setattr(_tensors, "move", interrupted)
    store.save_tensor("x", torch.tensor(1.0))
    assert store.load_tensor("x") == 1
    assert len(list((tmp_path / "tensors/x").iterdir())) == 2


def test_saving_that_fails_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays, and nothing of the new one is left."""
    store = ZarrStore(tmp_path)
    store.save_tensor("x", torch.tensor(1.0))
    before = sorted(tmp_path.rglob("*"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for step in ("_write_tensor", "move"):
        with monkeypatch.context() as patch:
            patch.setattr(_tensors, step, full)
            with pytest.raises(NotWritable, match="No space left"):
                store.save_tensor("x", torch.tensor(2.0))
            with pytest.raises(NotWritable, match="No space left"):
                ZarrStore(tmp_path / "a" / "b").save_tensor("x", torch.tensor(2.0))
        assert sorted(tmp_path.rglob("*")) == before
    assert store.load_tensor("x") == 1


def test_saving_tidies_up_after_the_killed(tmp_path: Path) -> None:
    """What a process left that was killed before its tensor was current is removed."""
    code = """
    import os
    from tenterhook_zarr import _tensors
    _tensors.move = lambda *_: os._exit(0)
    ZarrStore(folder).save_tensor("x", torch.ones(2))
    """
    together(code, tmp_path, 1)
    assert len(list((tmp_path / "tensors/x").iterdir())) == 2
    store = ZarrStore(tmp_path)
    assert store.list_tensors() == []
    store.save_tensor("x", torch.zeros(2))
    assert len(list((tmp_path / "tensors/x").iterdir())) == 2
    assert store.load_tensor("x").tolist() == [0, 0]


def test_reading_beside_a_writer(tmp_path: Path) -> None:
    """A reader gets one of the tensors that were saved, never fill values, never an error."""
    together(READ_AND_WRITE, tmp_path, 3)


@pytest.mark.parametrize("keep", [0, 3, 8])
def test_chunk_that_is_cut(tmp_path: Path, keep: int) -> None:
    """A chunk that is shorter than it was is damage."""
    store = ZarrStore(tmp_path)
    store.save_tensor("x", torch.zeros(4))
    (chunk,) = tmp_path.glob("tensors/x/array-*/c/0")
    os.truncate(chunk, keep)
    with pytest.raises(DamagedStore, match="cannot be read"):
        store.load_tensor("x")


@pytest.mark.parametrize("processes", [2, 3])
def test_beginning_other_runs_of_one_name(tmp_path: Path, processes: int) -> None:
    """One wins, with those of its plan, and its run is whole; the others get `OtherRun`."""
    said = together(BEGIN, tmp_path, processes)
    for step in range(8):
        outcomes = {lines[step] for lines in said}
        run = ZarrStore(tmp_path / ("one" if step % 2 else f"store-{step}")).run(f"run-{step}")
        assert outcomes == {"other", f"features={run['h'][:].shape[1]}"}
        assert run.is_complete
        assert len(run["h"][:]) == 4


def test_beginning_that_fails_takes_nothing_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that a second process has joined stays, though the first one fails to begin it."""
    plan = a_plan()
    store = ZarrStore(tmp_path / "store")
    lay_out = _writer._lay_out

    def fail(_: Any) -> None:
        monkeypatch.setattr(_writer, "_lay_out", lay_out)
        write(ZarrStore(store.path).write_run("one", plan), plan.units())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_writer, "_lay_out", fail)
    with pytest.raises(NotWritable, match="No space left"):
        store.write_run("one", plan)
    assert ZarrStore(store.path).run("one").is_complete


def test_mark_that_another_took_back(tmp_path: Path) -> None:
    """A process that used the store meanwhile marks it again."""
    store = ZarrStore(tmp_path)
    with store._backend.made():
        (tmp_path / "tenterhook.json").unlink()
    assert ZarrStore(tmp_path, create=False).runs() == []


def test_beginning_beside_one_that_fails_and_takes_back(tmp_path: Path) -> None:
    """Whatever the one that fails takes back of a new store, what the other has put in it stays."""
    failed, worked = together(FAIL, tmp_path, 2)
    assert "0" in failed
    assert set(worked) == {"1"}
    for step in range(24):
        store = ZarrStore(tmp_path / f"store-{step}", create=False)
        assert "x1" in store.list_tensors()
        assert "run-1" in store.runs()
        assert store.load_tensor("x1").tolist() == [1, 1]
        assert store.verify_run("run-1") == []


# --- one process


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(3, 5)[::3, ::5], torch.tensor([1 + 2j]).imag, torch.ones(2, 3)[1:, 2:].T],
    ids=["strided", "imag", "transposed"],
)
def test_one_element_with_strides(tmp_path: Path, tensor: torch.Tensor) -> None:
    """A tensor of one element is saved, whatever its strides."""
    store = ZarrStore(tmp_path)
    store.save_tensor("x", tensor)
    assert torch.equal(store.load_tensor("x"), tensor)


@pytest.mark.parametrize("value", [[1.0], 3, None], ids=str)
def test_what_is_no_tensor(tmp_path: Path, value: Any) -> None:
    """It is refused, by its type, before anything is made."""
    with pytest.raises(TypeError, match=f"keeps no {type(value).__name__} objects, only tensors"):
        ZarrStore(tmp_path / "store").save_tensor("x", value)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and tensors that cannot be looked at are an error, and not none."""
    store = ZarrStore(tmp_path)
    store.save_tensor("x", torch.ones(1))
    store.write_run("one", a_plan())

    def refuse(path: Any) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    for look in (store.runs, store.list_tensors):
        with pytest.raises(NotWritable, match=r"(runs|tensors): it cannot be opened: Permission"):
            look()


def test_opened_while_it_is_begun(tmp_path: Path) -> None:
    """Whoever opens a store that others begin, and try, never takes it for another's."""
    raised: list[Exception] = []

    def again_and_again(act: Callable[[], object], stop: threading.Event) -> None:
        while not stop.is_set() and not raised:
            try:
                act()
            except NoStore:  # not yet
                pass
            except Exception as error:
                raised.append(error)
                raise

    for number in range(20):
        folder, stop = tmp_path / str(number), threading.Event()
        acts = (
            partial(ZarrStore, folder, create=False),
            lambda: ZarrStore(folder).check_writable(),  # noqa: B023 - it has ended by then
        )
        threads = [threading.Thread(target=again_and_again, args=(act, stop)) for act in acts]
        for thread in threads:
            thread.start()
        ZarrStore(folder).save_tensor("x", torch.zeros(1))
        stop.set()
        for thread in threads:
            thread.join()
    assert raised == []
