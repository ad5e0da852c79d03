"""Several processes and one store: real ones, some of them killed."""

import hashlib
import json
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenterhook_capture import CaptureRecipe, WorkerFactory
from tenterhook_store import LocalStore

sys.path.insert(0, str(Path(__file__).parent))  # the processes import it by its name
from command_processes import Running, starting

Start = Callable[..., Running]


DO_ALL = """
import pickle, sys
import command_processes
command_processes.default_manager().register(command_processes.Words(), "words-here")
factory, units = pickle.load(open(sys.argv[1], "rb"))
worker = factory()
for unit in reversed(units):
    worker(unit)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start commands; `start("capture", ..., NAME="value")`."""
    with starting(tmp_path) as start:
        yield start


def capture(store: Path, *more: str) -> list[str]:
    """Return the words of a capture: 120 rows in 12 units of 5 batches each."""
    layers = ["--layer", "head", "--layer", "blocks.0"]
    options = ["--data", "words:all", "--out", str(store), "--rows-per-unit", "10"]
    return ["capture", "words:", *layers, *options, "--batch-size", "1", *more]


def files_of(store: Path, run: str = "run") -> dict[str, str]:
    """Return the hash of every file of a run but of those that say when, or by whom."""
    folder = store / "runs" / run
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name not in ("log", "sessions")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the files of a run that one process made, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with starting(folder) as start:
        code, output = start(*capture(folder / "store", "--run-name", "run")).wait()
        assert code == 0, output
    return files_of(folder / "store")


def test_one_command_twice_at_once(start: Start, tmp_path: Path, whole: dict[str, str]) -> None:
    """Both end well, and the run is as if one had made it."""
    command = capture(tmp_path / "store", "--run-name", "run")
    for each in [start(*command), start(*command)]:
        code, output = each.wait()
        assert code == 0, output
        assert "120 rows" in output
    assert files_of(tmp_path / "store") == whole


def test_two_captures_under_one_name(start: Start, tmp_path: Path, whole: dict[str, str]) -> None:
    """One has the name; the other is told, with exit code 2, and leaves nothing."""
    command = capture(tmp_path / "store", "--run-name", "run")
    ended = [each.wait() for each in (start(*command), start(*command, "--dtype", "float16"))]
    assert sorted(code for code, _ in ended) == [0, 2]
    (refused,) = [output for code, output in ended if code == 2]
    assert "is there already and is another one" in refused
    assert "head.dtype is" in refused
    if ended[0][0] == 0:
        assert files_of(tmp_path / "store") == whole
    assert LocalStore(tmp_path / "store").verify_run("run") == []


def test_two_captures_in_one_folder(start: Start, tmp_path: Path, whole: dict[str, str]) -> None:
    """Each has its run."""
    store = tmp_path / "store"
    one = start(*capture(store, "--run-name", "run"))
    other = start(*capture(store, "--run-name", "other", "--dtype", "float16"))
    assert [one.wait()[0], other.wait()[0]] == [0, 0]
    assert files_of(store) == whole
    assert LocalStore(store).runs() == ["other", "run"]
    assert all(LocalStore(store).verify_run(run) == [] for run in ("run", "other"))


def test_slices_at_once(start: Start, tmp_path: Path, whole: dict[str, str]) -> None:
    """A plan is made, then worked on by slices, named on the command line or by a launcher."""
    store = tmp_path / "store"
    code, output = start(*capture(store, "--run-name", "run", "--plan")).wait()
    assert code == 0, output
    assert f"  tenterhook work {store} run --slice 0/2\n" in output
    assert len(LocalStore(store).run("run")) == 0
    parts = [
        start("work", str(store), "run", "--slice", "0/3"),
        start("work", f"{store}/runs/run", RANK="1", WORLD_SIZE="3"),
        start("work", str(store), SLURM_PROCID="2", SLURM_NTASKS="3"),
    ]
    output = "".join(part.wait()[1] for part in parts)
    assert [part.process.exitcode for part in parts] == [0, 0, 0], output
    assert "Slice 1/3, from RANK=1 WORLD_SIZE=3." in output
    assert "Slice 2/3, from SLURM_PROCID=2 SLURM_NTASKS=3." in output
    assert output.count("the run is complete, 120 rows") >= 1
    assert files_of(store) == whole
    sessions = LocalStore(store).run("run").metadata["sessions"]
    assert sorted(session["part"] for session in sessions) == ["0/3", "1/3", "2/3"]
    code, output = start("work", str(store), "run", "--slice", "1/3").wait()
    assert (code, "nothing of slice 1/3 was missing" in output) == (0, True)


def test_a_slice_that_is_killed(start: Start, tmp_path: Path, whole: dict[str, str]) -> None:
    """Another process does what it left, though its own slice was another one."""
    store = tmp_path / "store"
    assert start(*capture(store, "--run-name", "run", "--plan")).wait()[0] == 0
    killed = start("work", str(store), "--slice", "1/2", WORDS_SECONDS="0.05")
    killed.wait_for("batch", 12)
    killed.kill()
    killed.wait()
    other = start("work", str(store), "--slice", "0/2").wait()[1]
    assert "units are missing" in other
    done = LocalStore(store).run("run")
    assert 6 < len(done.committed) < 12
    assert start("runs", "finalize", str(store)).wait()[0] == 1
    output = start("runs", "status", str(store)).wait()[1]
    assert f"stopped, {len(done.committed)}0 of 120 rows" in output
    session = {"host": "node7", "process": 12, "start": "2026-01-02T03:04:05+00:00", "end": None}
    LocalStore(store).write_run("run", done.plan).note_session("elsewhere", session)
    output = start("runs", "status", str(store)).wait()[1]
    assert f"silent, {len(done.committed)}0 of 120 rows" in output
    assert re.search(
        r"  process 12 on node7 was last seen [\d,]+ days ago: it is gone, or cannot reach the",
        output,
    )
    code, output = start("runs", "resume", str(store)).wait()
    assert (code, "the run is complete, 120 rows" in output) == (0, True)
    assert files_of(store) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_slice_that_is_stopped(start: Start, tmp_path: Path, number: int) -> None:
    """It says how far the run is and how to go on."""
    store = tmp_path / "store"
    assert start(*capture(store, "--run-name", "run", "--plan")).wait()[0] == 0
    stopped = start("work", str(store), WORDS_SECONDS="0.05")
    stopped.wait_for("batch", 12)
    stopped.kill(number)
    code, output = stopped.wait()
    assert code == 130, output
    assert "of 120 rows; the same command again does the rest." in output
    assert "Traceback" not in output
    (found,) = json.loads(start("runs", "status", str(store), "--json").wait()[1])
    assert found["state"] == "stopped"
    assert found["last_activity"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
@pytest.mark.parametrize("words", [("capture",), ("capture", "--plan"), ("work",)], ids=str)
def test_stopped_before_anything_is_done(
    start: Start, tmp_path: Path, words: tuple[str, ...], number: int
) -> None:
    """While the model is loaded, too, it ends with 130 and without a traceback."""
    store = tmp_path / "store"
    if words == ("work",):
        assert start(*capture(store, "--run-name", "run", "--plan")).wait()[0] == 0
        command = ["work", str(store)]
    else:
        command = capture(store, *words[1:])
    stopped = start(*command, WORDS_LOADING="60")
    stopped.wait_for("loading")
    stopped.kill(number)
    code, output = stopped.wait()
    assert (code, output.splitlines()[-1]) == (130, "stopped.")
    assert "Traceback" not in output
    assert store.exists() == (words == ("work",))


def test_a_unit_that_keeps_failing(start: Start, tmp_path: Path, whole: dict[str, str]) -> None:
    """The others are done, the exit code is 1, and status names it until it is done."""
    store = tmp_path / "store"
    command = capture(store, "--run-name", "run", "--tries", "2")
    code, output = start(*command, WORDS_BAD="w16").wait()
    assert code == 1
    assert (
        "1 unit failed, tried 2 times each, and the others are done (unit 6: ValueError" in output
    )
    assert "hint: Run 'run' has 110 of 120 rows; the same command again does the rest." in output
    output = start("runs", "status", str(store)).wait()[1]
    assert "incomplete, 110 of 120 rows, 11 of 12 units" in output
    assert "  missing: units 6\n  unit 6 failed: ValueError: w16 is bad" in output
    assert start(*command).wait()[0] == 0
    assert files_of(store) == whole
    assert "failed" not in start("runs", "status", str(store)).wait()[1]


def test_a_model_that_is_not_the_one(start: Start, tmp_path: Path) -> None:
    """A process whose model is another is refused in one line, and writes nothing."""
    store = tmp_path / "store"
    assert start(*capture(store, "--run-name", "run", "--plan")).wait()[0] == 0
    code, output = start("work", str(store), WORDS_SEED="1").wait()
    assert code == 2
    assert "cannot go on: its model or its data are not what they were" in output
    assert "model not the same" in output
    assert "--model" in output
    assert LocalStore(store).run("run").committed == frozenset()


def test_a_worker_is_made_in_a_fresh_process(
    start: Start, tmp_path: Path, whole: dict[str, str]
) -> None:
    """What engines send pickles: store, run and names, from which the worker is made."""
    store = tmp_path / "store"
    assert start(*capture(store, "--run-name", "run", "--plan")).wait()[0] == 0
    opened = LocalStore(store)
    run = opened.run("run")
    factory = WorkerFactory(opened, "run", CaptureRecipe.of_run(run))
    sent = tmp_path / "factory"
    sent.write_bytes(pickle.dumps((factory, run.plan.units())))
    done = subprocess.run(
        [sys.executable, "-c", DO_ALL, str(sent)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert start("runs", "finalize", str(store)).wait()[0] == 0
    assert files_of(store) == whole
