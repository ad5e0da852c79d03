"""Who does the units of a run: the protocol of engines, by name too, and the one in this process.

An engine says what happened to each unit; what is done, the store alone says. It keeps no count of
tries: whoever runs it hands it again, in a later call, the units that are still missing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from tenterhook.errors import TenterhookError, closest
from tenterhook.one_line import type_name
from tenterhook.plugins import default_manager
from tenterhook_store import Unit

__all__ = [
    "Done",
    "Engine",
    "LocalEngine",
    "Pending",
    "UnitDone",
    "UnitEvent",
    "UnitFailed",
    "UnitLost",
    "UnknownEngine",
    "Worker",
    "engine_of",
    "make_engine",
]

Worker = Callable[[Unit], Mapping[str, Any]]
"""Computes, writes and commits a unit; returns how it went (times, counts)."""


@attrs.frozen
class UnitDone:
    """A unit is committed."""

    unit: Unit
    facts: Mapping[str, Any]


@attrs.frozen(eq=False)
class UnitFailed:
    """A unit raised; nothing of it is committed."""

    unit: Unit
    error: Exception


@attrs.frozen
class UnitLost:
    """A unit's worker is gone, or silent; the store says whether it was committed before."""

    unit: Unit
    reason: str


UnitEvent = UnitDone | UnitFailed | UnitLost


class Engine(Protocol):
    """Runs units, here or elsewhere.

    One that has workers elsewhere may have a method `workers_alive()` too, which returns how many
    there are just now; progress shows it. One that needs what not every machine has may have
    `check_here()`, which raises where that is missing, before a capture is begun.
    """

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units and yield an event for each, as they end, in any order.

        There may be millions, each made when it is asked for: take them as they are needed.
        `make_worker` is called once in each process that works. It pickles, unless the run was
        made from what has no name, which is the error that pickling raises: it loads model, tokens
        and store by name in the process that it is sent to. Whoever reads the events may stop
        reading, and closes the iterator where it can be closed; units that were not begun by then
        stay undone. A worker that raises is an event; one that cannot be made is raised.
        """


@attrs.define(slots=False)
class UnknownEngine(TenterhookError, LookupError):
    """No installed plugin has an engine of that name."""

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        there = f"There are {', '.join(self.known)}" if self.known else "There is none"
        if len(self.known) == 1:
            there = f"There is {self.known[0]}"
        close = closest(self.name, self.known) if len(self.known) > 1 else []
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"No installed plugin has an engine {self.name!r}. {there}.{hint}"


def make_engine(name: str, **settings: Any) -> Engine:
    """Return a new engine of the plugin that has one of that name, made with its settings.

    Raises `UnknownEngine`, which lists those there are; `AmbiguousExtension` where plugins clash
    over the name; `BrokenExtension` where the plugin gives no engine; and what making it raises.
    """
    manager = default_manager()
    known = manager.extensions("engines")
    if name not in known:
        raise manager.clash("engines", name) or UnknownEngine(name, tuple(known))
    registered = known[name]
    # Settings that it does not take are their giver's mistake, and a `TypeError`.
    found = registered.load()(**settings) if settings else registered.call()
    if not callable(getattr(found, "run", None)):
        raise registered.broken(
            f"returned a {type_name(found)}, which is no Engine: it has no method `run`"
        )
    engine: Engine = found
    return engine


def engine_of(engine: str | Engine | None) -> Engine:
    """Return an engine as it is, the one of a name, or for `None` a `LocalEngine`.

    Raises what its `check_here` does, if it has one.
    """
    if engine is None:
        return LocalEngine()
    found = make_engine(engine) if isinstance(engine, str) else engine
    check: Callable[[], None] = getattr(found, "check_here", lambda: None)
    check()
    return found


class Pending(Protocol):
    """A unit whose rows are computed, and which is being written."""

    def ready(self) -> bool:
        """Whether `result` need not wait."""

    def result(self) -> Mapping[str, Any]:
        """Wait until it is committed and return how it went, or raise what went wrong."""

    def cancel(self) -> None:
        """Discard it, unless it is committed; nothing of it runs any more afterwards."""


class Done:
    """A unit that is committed."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def ready(self) -> bool:
        """Return true."""
        return True

    def result(self) -> Mapping[str, Any]:
        """Return how it went."""
        return self._facts

    def cancel(self) -> None:
        """Do nothing: what is committed stays."""


class LocalEngine:
    """Does one unit after the other in this process.

    Where the worker has `start(unit)`, which returns a `Pending` once the rows are computed, a
    unit is computed while the one before it is written and committed.
    """

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units in order; see `Engine.run`."""
        worker = make_worker()
        start: Callable[[Unit], Pending] = getattr(worker, "start", lambda unit: Done(worker(unit)))
        before: tuple[Unit, Pending] | None = None
        try:
            for unit in units:
                try:
                    started = unit, start(unit)
                except Exception as error:  # noqa: BLE001 - it is in the event
                    failed = UnitFailed(unit, error)
                    if before is not None:
                        ended, before = before, None
                        yield _outcome(*ended)
                    yield failed
                    continue
                if before is not None:
                    ended, before = before, started
                    yield _outcome(*ended)
                before = started
                # Told at once where it needs no waiting, so that progress is not a unit late.
                if before[1].ready():
                    ended, before = before, None
                    yield _outcome(*ended)
            if before is not None:
                ended, before = before, None
                yield _outcome(*ended)
        finally:
            # Whoever reads stopped reading, or an error is on its way: no row of it is lost.
            if before is not None:
                _settle(before[1])


def _outcome(unit: Unit, pending: Pending) -> UnitEvent:
    try:
        return UnitDone(unit, pending.result())
    except Exception as error:  # noqa: BLE001 - it is in the event
        return UnitFailed(unit, error)
    except BaseException:
        pending.cancel()
        raise


def _settle(pending: Pending) -> None:
    """Let a unit whose rows are all computed be committed, while an error is on its way."""
    try:
        pending.result()
    except Exception:  # noqa: BLE001 - the unit is undone; what stopped the run is shown
        pass
    except BaseException:
        pending.cancel()
        raise
