"""What every engine does: a contract to inherit.

class TestMyEngine(EngineContract):
    @pytest.fixture
    def engine(self):
        return MyEngine(workers=2)

The units are those of a small run in the default store, in a folder of the test's own; the fixture
`place` may name another store. Workers in other processes must find the plugin of the store, and
import `tenterhook_capture.testing.engine_workers`.

First come tests of the engine alone, with workers that write rows; then those of a capture of a
small real model, as `save_activations` has an engine do it. They find out which processes there
were from what the workers note in a folder, so workers must be able to write there; those of other
machines are not killed.
"""

import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tenterhook.errors import TenterhookError
from tenterhook_capture.engine import Engine, LocalEngine, UnitDone, UnitFailed, UnitLost, engine_of
from tenterhook_capture.errors import UnitsFailed
from tenterhook_capture.progress import Progress
from tenterhook_capture.testing.engine_workers import (
    RUN,
    UNITS,
    CountedUnits,
    Interrupted,
    Killed,
    ProcessWorker,
    SmallCapture,
    cannot_make,
    is_alive,
    make_worker,
    same_rows,
    save,
)
from tenterhook_capture.threads import THREADS
from tenterhook_store import LocalStore, MemoryStore, Run, RunPlan, UnknownRun
from tenterhook_store.testing.small_runs import a_plan, rows_of


class EngineContract:
    """Inherit and give the fixture `engine`: an engine of yours."""

    has_processes: bool = False
    """Whether its workers are in processes of their own, which can be lost."""

    kills: int = 1
    """How many workers are killed at random in a capture; more take longer."""

    @pytest.fixture
    def engine(self) -> Engine:
        """Return an engine."""
        raise NotImplementedError("Give the fixture `engine`.")

    @pytest.fixture(autouse=True)
    def works_here(self, engine: Engine) -> None:
        """Skip where the engine says that this machine lacks what it needs."""
        try:
            engine_of(engine)
        except TenterhookError as error:
            pytest.skip(str(error))

    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        """Return where the store of the run is: a path or a URL, as `LocalStore` takes them."""
        return str(tmp_path / "store")

    @pytest.fixture
    def plan(self) -> RunPlan:
        """Return the plan of the run: five units, the last of them shorter."""
        return a_plan(rows=37, rows_per_unit=8)

    @pytest.fixture
    def capture(self, place: str, tmp_path: Path) -> SmallCapture:
        """Return a capture that can be made by any engine."""
        notes = tmp_path / "notes"
        notes.mkdir()
        return SmallCapture(place, notes)

    @pytest.fixture
    def whole(self) -> Run:
        """Return the same capture, made in this process and never disturbed."""
        store = MemoryStore()
        save(store, LocalEngine())
        return store.run(RUN)

    def test_it_does_every_unit(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """Each is done once, has its event, and is in the store."""
        make = functools.partial(make_worker, place, plan.to_json())
        events = list(engine.run(plan.units(), make))
        assert all(isinstance(event, UnitDone) for event in events), events
        assert sorted(event.unit.number for event in events) == [0, 1, 2, 3, 4]
        assert all(
            event.facts["rows"] == event.unit.rows
            for event in events
            if isinstance(event, UnitDone)
        )
        store = LocalStore(place)
        assert store.run(RUN).is_complete
        assert store.verify_run(RUN) == []

    def test_it_does_the_units_it_is_given(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """Others stay undone, and an engine can be used again for those."""
        make = functools.partial(make_worker, place, plan.to_json())
        list(engine.run([plan.unit(1), plan.unit(3)], make))
        assert LocalStore(place).run(RUN).committed == {1, 3}
        list(engine.run([plan.unit(0)], make))
        assert LocalStore(place).run(RUN).committed == {0, 1, 3}

    def test_units_come_in_any_order(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """Each row has its place from the plan, whichever came before."""
        make = functools.partial(make_worker, place, plan.to_json())
        units = [plan.unit(number) for number in (4, 0, 3, 1, 2)]
        events = list(engine.run(units, make))
        assert sorted(event.unit.number for event in events) == [0, 1, 2, 3, 4]
        run = LocalStore(place).run(RUN)
        assert run.tokens[:].tolist() == rows_of(plan, 0, plan.rows).tokens.tolist()

    def test_a_run_has_its_number_of_threads(
        self, engine: Engine, plan: RunPlan, place: str
    ) -> None:
        """Whatever the engine's processes begin with: it changes the last bits of a result."""
        before = torch.get_num_threads()
        plan = a_plan(rows=37, rows_per_unit=8, about={THREADS: before + 1})
        make = functools.partial(make_worker, place, plan.to_json())
        try:
            events = list(engine.run(plan.units(), make))
        finally:
            torch.set_num_threads(before)
        done = [event.facts["threads"] for event in events if isinstance(event, UnitDone)]
        assert done == [before + 1] * 5

    def test_a_unit_that_raises_is_an_event(
        self, engine: Engine, plan: RunPlan, place: str
    ) -> None:
        """It has what was raised; the others are done."""
        make = functools.partial(make_worker, place, plan.to_json(), frozenset({1, 4}))
        events = {event.unit.number: event for event in engine.run(plan.units(), make)}
        assert sorted(events) == [0, 1, 2, 3, 4]
        failed = {n: event for n, event in events.items() if isinstance(event, UnitFailed)}
        assert sorted(failed) == [1, 4]
        for number, event in failed.items():
            assert isinstance(event.error, ValueError)
            assert f"unit {number} is bad" in str(event.error)
        assert LocalStore(place).run(RUN).committed == {0, 2, 3}

    def test_a_worker_that_cannot_be_made_is_an_error(self, engine: Engine, plan: RunPlan) -> None:
        """It is raised as it is, and not once for each unit."""
        with pytest.raises(LookupError, match="there is no model here"):
            list(engine.run(plan.units(), cannot_make))

    def test_reading_may_stop(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """What was begun may end; what was done by then is in the store, and nothing hangs."""
        make = functools.partial(make_worker, place, plan.to_json())
        events = engine.run(plan.units(), make)
        first = next(events)
        close = getattr(events, "close", None)
        if close is not None:
            close()
        store = LocalStore(place)
        assert first.unit.number in store.run(RUN).committed
        assert store.verify_run(RUN) == []

    def test_no_units(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """There is nothing to tell."""
        make = functools.partial(make_worker, place, plan.to_json())
        assert list(engine.run([], make)) == []

    def test_units_are_made_as_they_are_needed(self, engine: Engine) -> None:
        """A plan may have more units than anyone should list."""
        units = CountedUnits(a_plan(rows=100_000, rows_per_unit=1).units())
        events = iter(engine.run(units, ProcessWorker))
        told = [next(events) for _ in range(3)]
        close = getattr(events, "close", None)
        if close is not None:
            close()
        assert all(isinstance(event, UnitDone) for event in told), told
        assert units.made < 1000

    def test_units_that_are_done_are_done_again_to_no_effect(
        self, engine: Engine, plan: RunPlan, place: str
    ) -> None:
        """Two processes may take one unit; its rows stay, and each unit has one event."""
        make = functools.partial(make_worker, place, plan.to_json())
        list(engine.run(plan.units(), make))
        again = list(engine.run(plan.units(), make))
        assert sorted(event.unit.number for event in again) == [0, 1, 2, 3, 4]
        run = LocalStore(place).run(RUN)
        assert run.is_complete
        assert run.tokens[:].tolist() == rows_of(plan, 0, plan.rows).tokens.tolist()
        assert LocalStore(place).verify_run(RUN) == []

    def test_two_may_do_the_same_units_at_once(
        self, engine: Engine, plan: RunPlan, place: str
    ) -> None:
        """As two people who give one command do; each is told of every unit."""
        make = functools.partial(make_worker, place, plan.to_json())
        one = iter(engine.run(plan.units(), make))
        events = [next(one)]
        other = list(engine.run(plan.units(), make))
        for told in ([*events, *one], other):
            assert all(isinstance(event, UnitDone) for event in told), told
            assert sorted(event.unit.number for event in told) == [0, 1, 2, 3, 4]
        run = LocalStore(place).run(RUN)
        assert run.tokens[:].tolist() == rows_of(plan, 0, plan.rows).tokens.tolist()
        assert LocalStore(place).verify_run(RUN) == []

    def test_a_failed_unit_can_be_tried_again(
        self, engine: Engine, plan: RunPlan, place: str
    ) -> None:
        """In a later call; nothing of its failure is left."""
        bad = functools.partial(make_worker, place, plan.to_json(), frozenset({1}))
        failed = [each for each in engine.run(plan.units(), bad) if isinstance(each, UnitFailed)]
        assert [event.unit for event in failed] == [plan.unit(1)]
        again = functools.partial(make_worker, place, plan.to_json())
        assert [type(each) for each in engine.run([plan.unit(1)], again)] == [UnitDone]
        assert LocalStore(place).run(RUN).is_complete

    def test_an_interrupt_is_no_event(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """Ctrl-C surfaces as it is; no half of a unit is left, and the run goes on later."""
        if self.has_processes:
            pytest.skip("has_processes: a worker's interrupt is not this process's")
        with pytest.raises(KeyboardInterrupt):
            list(engine.run(plan.units(), functools.partial(Interrupted, place, plan.to_json())))
        self.check_and_go_on(engine, plan, place)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_a_lost_unit_is_an_event(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """Once, with a reason; each other unit has one event too, and nothing hangs."""
        self.needs_processes()
        events = list(engine.run(plan.units(), functools.partial(Killed, place, plan.to_json())))
        assert sorted(event.unit.number for event in events) == [0, 1, 2, 3, 4]
        lost = [event for event in events if isinstance(event, UnitLost)]
        assert plan.unit(1) in [event.unit for event in lost]
        assert all(event.reason for event in lost)
        self.check_and_go_on(engine, plan, place)

    def check_and_go_on(self, engine: Engine, plan: RunPlan, place: str) -> None:
        """See that a run which was stopped at unit 1 is whole as far as it goes; end it."""
        store = LocalStore(place)
        committed = store.run(RUN).committed
        assert 1 not in committed
        assert store.verify_run(RUN) == []
        make = functools.partial(make_worker, place, plan.to_json())
        list(engine.run([unit for unit in plan.units() if unit.number not in committed], make))
        assert store.run(RUN).is_complete
        assert store.verify_run(RUN) == []

    def test_a_capture_has_the_bytes_of_local(
        self, engine: Engine, capture: SmallCapture, whole: Run
    ) -> None:
        """It shows how far all of it is, and the process that drives it holds no rows."""
        seen: list[Progress] = []
        run = capture.save(engine, seen.append)
        assert same_rows(run, whole)
        assert LocalStore(capture.place).verify_run(RUN) == []
        if self.has_processes:
            assert capture.processes()
            assert os.getpid() not in capture.processes()
        assert capture.left() == set()
        rows = [each.rows for each in seen]
        assert rows == sorted(rows)
        assert (rows[0], rows[-1]) == (0, run.plan.rows)
        assert {each.rows_total for each in seen} == {run.plan.rows}
        middle = next(each for each in seen if each.rows)
        assert middle.rows_per_second > 0
        assert middle.seconds_left is not None
        most = getattr(engine, "workers", 1)
        assert all(1 <= each.workers <= most for each in seen)

    def test_what_is_told_of_a_unit_is_small(
        self, engine: Engine, capture: SmallCapture, whole: Run
    ) -> None:
        """Rows go from a worker to the store, and not by way of whoever reads the events."""
        LocalStore(capture.place).write_run(RUN, whole.plan)
        events = list(engine.run(whole.plan.units()[:2], capture))
        assert [type(event) for event in events] == [UnitDone, UnitDone]
        assert all(len(pickle.dumps(event)) < 10_000 for event in events)

    def test_ctrl_c_stops_it(self, engine: Engine, capture: SmallCapture, whole: Run) -> None:
        """It says how to go on, and leaves no process; another engine does the rest."""

        def interrupt(progress: Progress) -> None:
            if progress.rows_new:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            capture.save(engine, interrupt)
        assert any("the same command again does" in each for each in caught.value.__notes__)
        assert capture.left() == set()
        self.check_and_end(LocalEngine(), capture, whole)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_a_lost_workers_unit_goes_back(
        self, engine: Engine, capture: SmallCapture, whole: Run
    ) -> None:
        """Another worker does it, and nobody is told of a failure."""
        self.needs_processes()
        dies = SmallCapture(capture.place, capture.notes, kills=frozenset({3}), times=1)
        assert same_rows(dies.save(engine), whole)
        assert dies.begun(3) >= 2
        assert capture.left() == set()

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_a_unit_that_always_kills_is_named(
        self, engine: Engine, capture: SmallCapture, whole: Run
    ) -> None:
        """After three attempts, and all others are done."""
        self.needs_processes()
        dies = SmallCapture(capture.place, capture.notes, kills=frozenset({3}))
        with pytest.raises(UnitsFailed, match=r"unit 3: .* its worker was lost: ") as caught:
            dies.save(engine)
        assert set(caught.value.causes) == {3}
        assert dies.begun(3) == 3
        assert LocalStore(capture.place).run(RUN).committed == set(range(UNITS)) - {3}
        assert capture.left() == set()
        self.check_and_end(engine, capture, whole)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_workers_are_killed_at_random(
        self, engine: Engine, capture: SmallCapture, whole: Run
    ) -> None:
        """The run has the bytes of one that nobody disturbed."""
        self.needs_processes()
        slow = SmallCapture(capture.place, capture.notes, rest=0.1, waits="enough")
        killer = Killer(slow, self.kills)
        killer.start()
        try:
            run = None
            while run is None or not run.is_complete:
                try:
                    run = slow.save(engine)
                except TenterhookError:  # too many at once: the same command again
                    run = LocalStore(slow.place).run(RUN)
        finally:
            killer.stop()
        assert killer.killed == self.kills
        assert same_rows(run, whole)
        assert LocalStore(slow.place).verify_run(RUN) == []
        assert slow.left() == set()

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    @pytest.mark.parametrize("sent", ["SIGINT", "SIGKILL"])
    def test_its_driver_is_stopped(
        self, engine: Engine, capture: SmallCapture, whole: Run, tmp_path: Path, sent: str
    ) -> None:
        """No worker outlives the process that sent for it; the engine goes on in another."""
        self.needs_processes()
        slow = SmallCapture(capture.place, capture.notes, rest=0.2)
        file = tmp_path / "driver.pickle"
        file.write_bytes(pickle.dumps((engine, slow)))
        command = [sys.executable, "-m", "tenterhook_capture.testing.engine_driver", str(file)]
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        try:
            while not _units_done(slow.place):
                assert driver.poll() is None, f"it ended with status {driver.returncode}"
                time.sleep(0.02)
            driver.send_signal(signal.Signals[sent])
            said, _ = driver.communicate()
        finally:
            driver.kill()
            driver.wait()
        if sent == "SIGINT":
            assert driver.returncode == 130
            assert "the same command again does the rest" in said
        assert slow.left() == set()
        self.check_and_end(engine, capture, whole)

    def needs_processes(self) -> None:
        """Skip where a worker is lost with this process alone."""
        if not self.has_processes:
            pytest.skip("has_processes = False: its workers are lost with this process alone")

    def check_and_end(self, engine: Engine, capture: SmallCapture, whole: Run) -> None:
        """See that a capture which was stopped is sound as far as it goes; end it."""
        assert LocalStore(capture.place).verify_run(RUN) == []
        assert same_rows(capture.save(engine), whole)
        assert LocalStore(capture.place).verify_run(RUN) == []


class Killer(threading.Thread):
    """Kills workers of a capture, at random moments, until it was enough."""

    def __init__(self, capture: SmallCapture, times: int) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self._capture, self._times = capture, times
        self._chance = random.Random(times)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Kill, and let the capture end."""
        gone = set[int]()
        while self.killed < self._times and not self._stopped.wait(self._chance.random() / 5):
            there = sorted(filter(is_alive, self._capture.processes() - gone))
            if there:
                process = self._chance.choice(there)
                os.kill(process, signal.SIGKILL)
                gone.add(process)
                self.killed += 1
        (self._capture.notes / "enough").touch()

    def stop(self) -> None:
        """Stop, whether it was enough or not."""
        self._stopped.set()
        self.join()


def _units_done(place: str) -> int:
    try:
        return len(LocalStore(place).run(RUN).committed)
    except UnknownRun:
        return 0
