"""Observers of runs: told when a capture begins, what becomes of its units, and how it ends.

An observer watches; it cannot stop a run, and one that fails is told nothing more of it.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

import attrs

from tenterhook.one_line import error_line
from tenterhook.plugins import PluginWarning, Registered, default_manager
from tenterhook_capture.engine import Engine, UnitEvent, Worker
from tenterhook_store import RunPlan, Unit
from tenterhook_store.plan import Units

__all__ = [
    "RunBegun",
    "RunObserver",
]


@attrs.frozen(kw_only=True)
class RunBegun:
    """A run, or this process's slice of one, as it begins, or goes on after a stop."""

    run_id: str
    rows: int
    """All rows that this process is to see to."""
    rows_committed: int
    """Those of units that are committed already."""
    units: int
    units_committed: int
    about: Mapping[str, Any]
    """What the store keeps of the run's model, documents and counts, in plain JSON values."""


class RunObserver(Protocol):
    """Is told of one run, in the process and thread that drives it."""

    def begin(self, run: RunBegun) -> None:
        """Take note of the run before its first unit."""

    def unit(self, event: UnitEvent) -> None:
        """Take note of a unit: committed (`UnitDone`), failed (`UnitFailed`) or lost (`UnitLost`).

        One that failed or was lost may be tried again.
        """

    def end(self, error: BaseException | None) -> None:
        """Take note of the end: `None` where all of it is done, else what stopped it."""


class Observation(AbstractContextManager["Observation"]):
    """Tells the observers of the installed plugins of one run.

    What an observer raises becomes a `PluginWarning` that names its plugin, and the run goes on
    without that observer.
    """

    def __init__(self, run: RunBegun) -> None:
        self._run = run
        self._watching: list[tuple[Registered, RunObserver]] = []

    def __enter__(self) -> "Observation":
        for registered in default_manager().extensions("observers").values():
            made = _tried(registered, lambda make: make()(), registered.load)
            if made is not None:
                self._watching.append((registered, made))
        self._tell(lambda observer: observer.begin(self._run))
        return self

    def watching(self, engine: Engine) -> Engine:
        """Return the engine, with the observers told of each of its events."""
        return _Watched(engine, self._unit)

    def _unit(self, event: UnitEvent) -> None:
        self._tell(lambda observer: observer.unit(event))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tell(lambda observer: observer.end(error))

    def _tell(self, what: Callable[[RunObserver], object]) -> None:
        def tell(observer: RunObserver) -> bool:
            answer = what(observer)
            if inspect.iscoroutine(answer):
                answer.close()  # or Python complains that nobody awaited it
                raise TypeError("it is called, not awaited; write `def`, not `async def`")
            return True

        self._watching = [each for each in self._watching if _tried(each[0], tell, each[1])]


def _tried(registered: Registered, call: Callable[[Any], Any], argument: Any) -> Any:
    """Return what the call returns; `None`, with a warning, where it raises."""
    try:
        return call(argument)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it is shown, and an exit would stop the run
        warnings.warn(
            f"Observer {registered.extension.name!r} of {registered.origin} failed and is told "
            f"no more of this run: {error_line(error)}",
            PluginWarning,
            stacklevel=3,
        )
        return None


@attrs.frozen(eq=False)
class _Watched:
    """An engine whose events are told as they come."""

    engine: Engine
    tell: Callable[[UnitEvent], None]

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        events = self.engine.run(units, make_worker)
        try:
            for event in events:
                self.tell(event)
                yield event
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()


def observing(run_id: str, plan: RunPlan, units: Units, missing: Units) -> Observation:
    """Return the observation of those units of a run, of which some are missing."""
    return Observation(
        RunBegun(
            run_id=run_id,
            rows=units.rows,
            rows_committed=units.rows - missing.rows,
            units=len(units),
            units_committed=len(units) - len(missing),
            about=plan.about,
        )
    )
