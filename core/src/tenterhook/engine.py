"""Who does the units of a run: the protocol of engines, and the one in this process.

An engine says what happened to each unit; what is done, the store alone says. It keeps no count of
tries: whoever runs it hands it again, in a later call, the units that are still missing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from tenterhook.store import Unit

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
    """Runs units, here or elsewhere."""

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units and yield an event for each, as they end, in any order.

        `make_worker` is called once in each process that works. It pickles, unless the run was
        made from what has no name, which is the error that pickling raises: it loads model, tokens
        and store by name in the process that it is sent to. Whoever reads the events may stop
        reading, and closes the iterator where it can be closed; units that were not begun by then
        stay undone. A worker that raises is an event; one that cannot be made is raised.
        """


class LocalEngine:
    """Does one unit after the other in this process."""

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units in order; see `Engine.run`."""
        worker = make_worker()
        for unit in units:
            try:
                facts = worker(unit)
            except Exception as error:  # noqa: BLE001 - it is in the event
                yield UnitFailed(unit, error)
            else:
                yield UnitDone(unit, facts)
