"""The engine of several processes: the contract of engines, and runs that it makes under kills."""

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook.errors import TenterhookError
from tenterhook_capture import CaptureRecipe, UnitsFailed, save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_capture.engine import UnitDone, UnitLost, make_engine
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.loading import load_model
from tenterhook_capture.processes import ProcessesEngine, WorkersDied
from tenterhook_capture.progress import Progress
from tenterhook_capture.testing.engines import EngineContract
from tenterhook_store import LocalStore, Run, Unit
from tenterhook_store.testing.small_runs import a_plan

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="passes file descriptors"),
    pytest.mark.matrix(sample=3),
]

LAYERS = ["layer_0", "layer_1"]
MARK = secrets.token_hex(8)
"""In the environment of every process that these tests start."""


class TestProcesses(EngineContract):
    """Two processes."""

    has_processes = ProcessesEngine.has_processes
    kills = int(os.environ.get("TENTERHOOK_KILLS", "1"))

    @pytest.fixture
    def engine(self) -> ProcessesEngine:
        """Return the engine."""
        return ProcessesEngine(workers=2)


def capture(store: Path, engine: Any = None, **settings: Any) -> Run:
    """Keep some of the sample; return the run."""
    documents = read_documents("tiny:sample")
    options = {"sample_limit": 24, "rows_per_unit": 300, **settings}
    save_activations(
        load_model("tiny:"), LAYERS, documents, LocalStore(str(store)), run_name="r",
        engine=engine, **options,
    )  # fmt: skip
    return LocalStore(str(store)).run("r")


def children() -> set[int]:
    """Return the processes of engines that are there."""
    found = subprocess.run(
        ["pgrep", "-f", "tenterhook_capture.process_worker"], capture_output=True, text=True
    )
    return set(filter(is_ours, map(int, found.stdout.split())))


def is_ours(process: int) -> bool:
    """Say whether a process was started by these tests, and not by others that run beside them."""
    if not os.path.isdir("/proc/self"):
        return True
    with contextlib.suppress(OSError):  # it has ended
        return MARK.encode() in Path(f"/proc/{process}/environ").read_bytes()
    return False


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark the processes that a test starts."""
    monkeypatch.setenv("MARK_OF_TESTS", MARK)


def none_is_left(before: set[int]) -> bool:
    """Wait a little for processes to end; whether none but those of before is there."""
    until = time.monotonic() + 20
    while children() - before and time.monotonic() < until:
        time.sleep(0.1)
    return not children() - before


def are_equal(one: Run, other: Run) -> bool:
    """Whether two runs have the same bytes, tokens and all."""
    pairs = [(one[name], other[name]) for name in one.layers]
    pairs.append((one.tokens, other.tokens))
    return all(torch.equal(a[:], b[:]) for a, b in pairs)


def kill_now_and_then(commits: Path, stop: list[bool], before: set[int], seed: int) -> None:
    """Kill a process of the engine in the middle of something, each time a unit was committed."""
    chance, seen = random.Random(seed), 0
    while not stop:
        done = len(list(commits.iterdir())) if commits.is_dir() else 0
        if done > seen:
            seen = done
            time.sleep(chance.random())
            if there := sorted(children() - before):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(there), signal.SIGKILL)
        time.sleep(0.02)


class TestRuns:
    """Runs of a real model."""

    def test_the_bytes_are_those_of_one_process(self, tmp_path: Path) -> None:
        """Whatever process does which unit; and nothing is left behind."""
        before = children()
        here = capture(tmp_path / "a")
        seen: list[Progress] = []
        there = capture(tmp_path / "b", ProcessesEngine(workers=3), progress=seen.append)
        assert are_equal(here, there)
        assert max(each.workers for each in seen) == 3
        assert there.plan.about["threads"] == torch.get_num_threads()
        assert none_is_left(before)

    def test_one_engine_goes_on_with_anothers_run(self, tmp_path: Path) -> None:
        """A run that was begun here is ended by processes, with as many threads as it began."""
        threads = torch.get_num_threads()
        whole = capture(tmp_path / "a")

        def stop(progress: Any) -> None:
            if progress.rows_new > 700:
                raise InterruptedError("enough")

        torch.set_num_threads(threads + 1)
        try:
            with pytest.raises(InterruptedError):
                capture(tmp_path / "b", progress=stop)
        finally:
            torch.set_num_threads(threads)
        part = LocalStore(str(tmp_path / "b")).run("r")
        assert 0 < part.rows_committed < whole.plan.rows
        ended = capture(tmp_path / "b", "processes")
        assert ended.is_complete
        assert ended.plan.about["threads"] == threads + 1
        assert torch.get_num_threads() == threads
        sessions = ended.recent(100)["sessions"]
        assert {each["threads"] for each in sessions if each.get("is_worker")} == {threads + 1}

    def test_what_has_no_name_is_refused(self, tmp_path: Path) -> None:
        """A list of texts is nothing that another process could read."""
        with pytest.raises(TenterhookError, match="documents"):
            save_activations(
                load_model("tiny:"), "layer_0", ["one text"], LocalStore(str(tmp_path)),
                engine="processes",
            )  # fmt: skip

    @pytest.mark.parametrize("workers", [0, -1, True, 1.5])
    def test_settings(self, workers: Any) -> None:
        """A number of processes is a whole number."""
        with pytest.raises(BadArgument, match="workers"):
            make_engine("processes", workers=workers)


class DiesAt:
    """A worker whose process dies at a unit."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Do nothing, or die."""
        if unit.number == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"process": os.getpid()}


class MakesOne:
    """A factory of these, which pickles."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self) -> DiesAt:
        """Make one; number -1 dies at once."""
        if self.number < 0:
            os._exit(3)
        return DiesAt(self.number)


class Writer:
    """A worker whose units are still being written when they are computed."""

    def __init__(self, kills: int | None) -> None:
        self.kills = kills
        self.begun = 0

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Do a unit."""
        return self.start(unit).result()

    def start(self, unit: Unit) -> "Written":
        """Begin a unit, or die."""
        if unit.number == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        self.begun += 1
        return Written(self)


class Written:
    """A unit that is being written until it is asked for."""

    def __init__(self, by: Writer) -> None:
        self.by = by

    def ready(self) -> bool:
        """Say no."""
        return False

    def result(self) -> Mapping[str, Any]:
        """Say how many units were begun by now."""
        return {"begun": self.by.begun}

    def cancel(self) -> None:
        """Do nothing."""


class MakesWriter:
    """A factory of these, which pickles."""

    def __init__(self, kills: int | None = None) -> None:
        self.kills = kills

    def __call__(self) -> Writer:
        """Make one."""
        return Writer(self.kills)


class TestDeaths:
    """Processes that die."""

    def test_a_unit_that_always_kills_is_named(self) -> None:
        """It is lost with its cause, and all others are done by the processes that are left."""
        units = a_plan(rows=40, rows_per_unit=4).units()
        events = list(ProcessesEngine(workers=2).run(units, MakesOne(3)))
        lost = [each for each in events if isinstance(each, UnitLost)]
        assert [each.unit.number for each in lost] == [3]
        assert "was killed by signal 9" in lost[0].reason
        assert sum(isinstance(each, UnitDone) for each in events) == len(units) - 1

    def test_processes_that_never_get_ready(self) -> None:
        """They are not started for ever."""
        units = a_plan(rows=40, rows_per_unit=4).units()
        with pytest.raises(WorkersDied, match=r"ended with status 3\. If memory does not hold"):
            list(ProcessesEngine(workers=2).run(units, MakesOne(-1)))

    @pytest.mark.parametrize("seed", range(2))
    def test_kills_at_random(self, tmp_path: Path, seed: int) -> None:
        """The run has the bytes of one that nobody disturbed."""
        before, stop = children(), list[bool]()
        whole = capture(tmp_path / "a")
        commits = tmp_path / "b/runs/r/commits"
        args = (commits, stop, before, seed)
        killer = threading.Thread(target=kill_now_and_then, args=args)
        killer.start()
        try:
            run = None
            while run is None or not run.is_complete:
                try:
                    run = capture(tmp_path / "b", ProcessesEngine(workers=2))
                except (UnitsFailed, WorkersDied):
                    run = LocalStore(str(tmp_path / "b")).run("r")
        finally:
            stop.append(True)
            killer.join()
        assert are_equal(whole, run)
        assert LocalStore(str(tmp_path / "b")).verify_run("r") == []
        assert none_is_left(before)

    def test_the_next_unit_is_computed_while_one_is_written(self) -> None:
        """Where the worker says that rows are still being written, as a capture's thread does."""
        units = a_plan(rows=40, rows_per_unit=4).units()
        events = list(ProcessesEngine(workers=1).run(units, MakesWriter()))
        done = [each for each in events if isinstance(each, UnitDone)]
        assert [each.unit.number for each in done] == list(range(len(units)))
        # All but the last: nothing is begun after it.
        assert [each.facts["begun"] for each in done] == [*range(2, len(units) + 1), len(units)]

    def test_of_two_units_the_one_that_kills_is_named(self) -> None:
        """The one that was being written beside it is done."""
        units = a_plan(rows=40, rows_per_unit=4).units()
        events = list(ProcessesEngine(workers=1).run(units, MakesWriter(kills=3)))
        lost = [each for each in events if isinstance(each, UnitLost)]
        assert [each.unit.number for each in lost] == [3]
        done = [each.unit.number for each in events if isinstance(each, UnitDone)]
        assert sorted(done) == [0, 1, 2, *range(4, len(units))]

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
    def test_the_command_is_stopped(self, tmp_path: Path, sent: signal.Signals) -> None:
        """Ctrl-C says how to go on; nothing is left at work, and the same command goes on."""
        before = children()
        command = [
            *(sys.executable, "-m", "tenterhook", "capture", "tiny:", "--layer", "layer_0"),
            *("--layer", "layer_1", "--data", "tiny:sample", "--sample-limit", "24"),
            *("--rows-per-unit", "300", "--out", str(tmp_path / "b"), "--run-name", "r"),
            *("--engine", "processes", "--workers", "2"),
        ]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs the tests in the background may have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        until = time.monotonic() + 120
        while not (tmp_path / "b/runs/r/commits").is_dir() or not any(
            (tmp_path / "b/runs/r/commits").iterdir()
        ):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(sent)
        _, said = process.communicate()
        assert none_is_left(before)
        if sent is signal.SIGINT:
            assert process.returncode == 130
            assert "the same command again does the rest" in said
        assert LocalStore(str(tmp_path / "b")).verify_run("r") == []
        assert are_equal(capture(tmp_path / "a"), capture(tmp_path / "b", "processes"))


def test_recipes_know_nothing_of_engines(tmp_path: Path) -> None:
    """Who did the units is no part of what a run is."""
    run = capture(tmp_path, ProcessesEngine(workers=1), sample_limit=4)
    assert "engine" not in CaptureRecipe.of_run(run).values()
