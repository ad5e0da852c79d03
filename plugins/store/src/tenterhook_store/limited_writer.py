"""Writing a run with a limit: units wait for room, and what all followers have read is dropped.

Which units may be written follows from the followers' places alone: as many as the limit holds,
from the first that a follower may still read. So all that is there together stays within the limit,
in whatever order and by however many processes units are written, and the unit that a follower
waits for is always one that may be written.

What happens when a unit is opened:

1. The followers' places are read. Where nobody follows yet, that is the beginning of the run.
2. Committed units before all of these places are dropped.
3. A unit beyond the limit waits, looks again, and says for whom once that takes `PATIENCE` seconds.

A unit that failed is tried again after the others, and the others would wait for it. So a unit that
has no room raises `UnitHeldBack` where one that this writer began before has failed.
"""

import time
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from tenterhook_store.errors import CannotDrop, DeletedRun, UnitHeldBack, UnknownRun
from tenterhook_store.following import DropsUnits, Follower, first_read, followers
from tenterhook_store.limits import units_held
from tenterhook_store.plan import RunPlan, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from tenterhook_store.protocols import RowBlock, RunWriter, Store, UnitWriter

POLL = 0.05
"""Seconds before a unit that waits looks again for the first time; then longer and longer."""

LONGEST = 2.0
"""The longest of these times."""

PATIENCE = 10.0
"""Seconds after which it is said for whom a unit waits."""


def limited(store: "Store", writer: "RunWriter") -> "RunWriter":
    """Return a writer that keeps the run's limit; the writer itself where the run has none.

    Raises `CannotDrop` (a `TypeError`) where the store cannot drop units.
    """
    held = units_held(writer.plan)
    if held is None:
        return writer
    if not isinstance(store, DropsUnits):
        raise CannotDrop(store.location)
    return LimitedWriter(store, store.drop_unit, writer, held)


@final
class LimitedWriter:
    """A `RunWriter` whose units wait until there is room for them."""

    def __init__(self, store: "Store", drop: Any, writer: "RunWriter", held: int) -> None:
        """`held` is how many units there may be at once; `drop` is `DropsUnits.drop_unit`."""
        self._store = store
        self._drop = drop
        self._writer = writer
        self._held = held
        self._failed = set[int]()
        """Units that this has begun, and that were left without being committed."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._writer.run_id

    @property
    def plan(self) -> RunPlan:
        """The run's plan."""
        return self._writer.plan

    def committed(self) -> frozenset[int]:
        """Return the numbers of the units that are committed now, those dropped among them."""
        return self._writer.committed()

    def open_unit(self, unit: Unit) -> "UnitWriter":
        """Wait until there is room for a unit, and begin it."""
        self._wait(unit)
        self._failed.discard(unit.number)
        return _LimitedUnit(self._writer.open_unit(unit), unit.number, self._failed)

    def note_session(self, session: str, facts: Mapping[str, Any]) -> None:
        """Keep what is to be known of this process's part of the work."""
        self._writer.note_session(session, facts)

    def finish(self) -> None:
        """Tidy up once all units are committed."""
        self._writer.finish()

    def _wait(self, unit: Unit) -> None:
        began, pause, was_said = time.monotonic(), POLL, False
        while True:
            try:
                run = self._store.run(self.run_id)
                found = followers(run)
                first = first_read(found)
                for number in sorted(run.committed - run.dropped):
                    if number < first:
                        self._drop(self.run_id, number)
            except UnknownRun:
                raise DeletedRun(self.run_id) from None
            if unit.number < first + self._held:
                return
            if failed := sorted(self._failed - run.committed):
                raise UnitHeldBack(unit.number, failed[0], self.run_id)
            if not was_said and time.monotonic() - began > PATIENCE:
                was_said = True
                warnings.warn(said(self.run_id, self.plan, found), UserWarning, stacklevel=3)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)


def said(run_id: str, plan: RunPlan, found: Mapping[str, Follower]) -> str:
    """Say for whom a run waits that is as full as its limit allows."""
    full = f"Run {run_id!r} is full: it holds {units_held(plan)} units at once (keep)"
    if not found:
        return (
            f"{full}, and nobody follows it. It goes on once one does: "
            "`tenterhook sae train STORE RUN LAYER --follow NAME`."
        )
    first = first_read(found)
    names = ", ".join(repr(name) for name, each in found.items() if each.unit == first)
    return (
        f"{full}, and waits for {names}, still at unit {first}. Start it again if it has stopped, "
        "or have the run go on without it: `tenterhook.store.unfollow(store, run_id, name)`."
    )


@final
class _LimitedUnit:
    """A `UnitWriter` that notes when it is left without being committed."""

    def __init__(self, writing: "UnitWriter", number: int, failed: set[int]) -> None:
        self._writing, self._number, self._failed = writing, number, failed
        self._is_committed = False

    def append(self, block: "RowBlock") -> None:
        self._writing.append(block)

    def keep(self, name: str, tensor: "Tensor") -> None:
        self._writing.keep(name, tensor)

    def commit(self, log: Mapping[str, Any]) -> None:
        self._writing.commit(log)
        self._is_committed = True

    def discard(self) -> None:
        if not self._is_committed:
            self._failed.add(self._number)
        self._writing.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()
