"""What every engine does: a contract to inherit.

class TestMyEngine(EngineContract):
    @pytest.fixture
    def engine(self):
        return MyEngine(workers=2)

The units are those of a small run in the default store, in a folder of the test's own; the fixture
`place` may name another store. Workers in other processes must find the plugin of the store, and
import `tenterhook_capture.testing.engines`.
"""

import functools
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from tenterhook_capture.engine import Engine, UnitDone, UnitFailed, UnitLost
from tenterhook_store import LocalStore, RunPlan, RunWriter, Unit
from tenterhook_store.testing.small_runs import a_plan, rows_of

RUN = "run"


@attrs.frozen
class RowWorker:
    """Writes rows that follow from their numbers; raises for some units."""

    writer: RunWriter
    bad: frozenset[int] = frozenset()

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Write and commit a unit; `ValueError` for a bad one."""
        with self.writer.open_unit(unit) as writing:
            writing.append(rows_of(self.writer.plan, unit.start, unit.stop))
            if unit.number in self.bad:
                raise ValueError(f"unit {unit.number} is bad")
            writing.commit({"rows": unit.rows})
        return {"rows": unit.rows}


def make_worker(place: str, plan: str, bad: frozenset[int] = frozenset()) -> RowWorker:
    """Make a worker, in whichever process; a `functools.partial` of it pickles."""
    return RowWorker(LocalStore(place).write_run(RUN, RunPlan.from_json(plan)), bad)


class Interrupted:
    """Is interrupted at unit 1, as by Ctrl-C, with half of it written; else as `RowWorker`."""

    def __init__(self, place: str, plan: str) -> None:
        self.does = make_worker(place, plan)

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Write and commit a unit; `KeyboardInterrupt` for unit 1."""
        if unit.number == 1:
            with self.does.writer.open_unit(unit) as writing:
                writing.append(rows_of(self.does.writer.plan, unit.start, unit.start + 1))
                raise KeyboardInterrupt
        return self.does(unit)


class Killed(Interrupted):
    """Kills its process at unit 1, with half of it written; else as `RowWorker`."""

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Write and commit a unit, or end."""
        if unit.number == 1:
            writing = self.does.writer.open_unit(unit)
            writing.append(rows_of(self.does.writer.plan, unit.start, unit.start + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.does(unit)


def cannot_make() -> RowWorker:
    """Fail to make one."""
    raise LookupError("there is no model here")


class EngineContract:
    """Inherit and give the fixture `engine`: an engine of yours."""

    has_processes: bool = False
    """Whether its workers are in processes of their own, which can be lost."""

    @pytest.fixture
    def engine(self) -> Engine:
        """Return an engine."""
        raise NotImplementedError("Give the fixture `engine`.")

    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        """Return where the store of the run is: a path or a URL, as `LocalStore` takes them."""
        return str(tmp_path / "store")

    @pytest.fixture
    def plan(self) -> RunPlan:
        """Return the plan of the run: five units, the last of them shorter."""
        return a_plan(rows=37, rows_per_unit=8)

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
        if not self.has_processes:
            pytest.skip("has_processes = False: its workers are lost with this process alone")
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
