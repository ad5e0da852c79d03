"""Batches in an order that follows from a run's units alone, so that a run that grows gives it too.

The run is cut into blocks of `units_at_once` units. Blocks follow each other, the rows of each are
shuffled, and batches are cut out of that one row of rows, so that a batch may begin in one block
and end in the next. The order within a block follows from the seed, the epoch and the block's
number: whoever reads the whole run, follows it while it is written, or goes on from a checkpoint
gets the same batches, to the bit.

A follower waits for units that are not there yet, and notes on the run from which unit it may still
read (`tenterhook_store.following`). That is the block in which the next batch begins after the
checkpoint that it would go on from: `commit` is called once the checkpoint is on the disk.
"""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from tenterhook_sae.errors import BadSetting
from tenterhook_sae.limits import whole
from tenterhook_store import Follower, OtherLoader, ReplacedRun, Run, Store, followers
from tenterhook_store.following import ATTRIBUTE, check_follower_name, note_follower
from tenterhook_store.limits import units_held
from tenterhook_store.order import generator

POLL = 0.05
"""Seconds before a follower looks again for a unit that is not there, for the first time."""

LONGEST = 2.0
"""The longest of these times."""

PATIENCE = 60.0
"""Seconds after which it is said for which unit a follower waits."""


@final
class UnitOrder:
    """The rows of some layers of a run, block by block, from the first on."""

    def __init__(
        self,
        run: Run,
        layers: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        rows: int,
        units_at_once: int = 1,
        follow: str | None = None,
    ) -> None:
        """Of the first `rows` rows; of several layers a row is theirs side by side.

        With `follow` the run is waited for, under that name. Raises `BadSetting`, and
        `DroppedRows` where somebody follows a run too late.
        """
        self._run = run
        self._layers = tuple(layers)
        self._batch_size = batch_size
        self._seed = seed
        self._rows = rows
        self._units_at_once = whole("units_at_once", units_at_once)
        self._block_rows = self._units_at_once * run.plan.rows_per_unit
        self._epoch = 0
        self._given = 0
        """Batches of the epoch that were given."""
        self._block: tuple[int, int, Tensor] | None = None
        """The block that was read last, by epoch and number, and its rows."""
        self.follower = None if follow is None else RunFollower(self, run, follow)

    @property
    def batches(self) -> int:
        """How many batches an epoch has; what is left over is one only where it is all."""
        return max(self._rows // self._batch_size, 1)

    @property
    def given(self) -> int:
        """How many batches were given, of the epoch that is going on."""
        return self._given

    @property
    def settings(self) -> dict[str, Any]:
        """What the batches follow from, in plain JSON values."""
        return {
            "order": "units",
            "rows": [0, self._rows],
            "rows_per_unit": self._run.plan.rows_per_unit,
            "units_at_once": self._units_at_once,
            "batch_size": self._batch_size,
            "seed": self._seed,
        }

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of an epoch that are left, `(batch_size, width)`."""
        for batch in range(self._given, self.batches):
            at = batch * self._batch_size
            stop = min(at + self._batch_size, self._rows)
            parts = []
            while at < stop:
                number, first = divmod(at, self._block_rows)
                part = self._shuffled(number)[first : first + stop - at]
                parts.append(part)
                at += len(part)
            self._given = batch + 1
            yield parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.follower is None:
            self._epoch, self._given = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, in plain JSON values."""
        return {"epoch": self._epoch, "batches": self._given, **self.settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; `OtherLoader` where it is of other batches."""
        mine = self.settings
        if differing := [
            f"{key} is {state.get(key)!r} there and {mine[key]!r} here"
            for key in mine
            if state.get(key) != mine[key]
        ]:
            raise OtherLoader(differing)
        self._epoch = whole("state['epoch']", state.get("epoch"), 0)
        self._given = whole("state['batches']", state.get("batches"), 0)

    # --- which units a batch takes

    def units_of(self, batch: int) -> range:
        """Return the units that have to be there for a batch: whole blocks."""
        first = batch * self._batch_size
        last = max(min(first + self._batch_size, self._rows) - 1, first)
        begin = first // self._block_rows * self._units_at_once
        end = (last // self._block_rows + 1) * self._units_at_once
        return range(begin, min(end, -(-self._rows // self._run.plan.rows_per_unit)))

    @property
    def most_units(self) -> int:
        """How many units have to be there at once, for any batch."""
        blocks = 1
        if self._block_rows % self._batch_size:  # a batch may begin anywhere in a block
            blocks = (self._batch_size - 2) // self._block_rows + 2
        return min(blocks * self._units_at_once, self._run.plan.unit_count)

    def _shuffled(self, number: int) -> Tensor:
        """Return the rows of a block in their order, `(rows, width)`."""
        if self._block is None or self._block[:2] != (self._epoch, number):
            start = number * self._block_rows
            stop = min(start + self._block_rows, self._rows)
            run = self._run if self.follower is None else self.follower.wait_for_rows(start, stop)
            # A slice of rows that are gone would be cut to those that are there.
            run.ranges.check(range(start, stop))
            parts = [run[layer][start:stop] for layer in self._layers]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            assert len(rows) == stop - start
            chance = generator(self._seed, self._epoch, number)
            order = torch.randperm(len(rows), generator=chance)
            self._block = self._epoch, number, rows[order]
        return self._block[2]


@final
class RunFollower:
    """Waits for the units of a run, and notes on the run which it needs no more."""

    def __init__(self, order: UnitOrder, run: Run, name: str) -> None:
        """Registers nothing yet; raises `BadSetting`, and `BadName` for a name."""
        self.name = check_follower_name(name)
        if not isinstance(run.store, Store):
            raise BadSetting("follow", name, "left out for a run whose store is not known")
        self._store: Store = run.store
        self._order, self._run, self._plan = order, run, run.plan
        held = units_held(run.plan)
        self._held = run.plan.unit_count if held is None else held
        if order.most_units > self._held:
            settings = order.settings
            least = (
                f"such that, with units_at_once={settings['units_at_once']}, the run holds the "
                f"{order.most_units} units that a batch may be of: it holds {self._held} (keep)"
            )
            raise BadSetting("batch_size", settings["batch_size"], least)
        self._reads = {"layers": list(order._layers), **order.settings}
        self._noted: int | None = None
        """The unit that is noted on the run; `None` before this has begun."""
        self._rested = 0.0
        """Seconds that it has waited for the same unit."""

    @property
    def given(self) -> int:
        """How many batches were given."""
        return self._order.given

    @property
    def needs(self) -> int:
        """The first unit that the next batch takes; the number of units after the last."""
        order = self._order
        return self.first_unit(order.given)

    def first_unit(self, batches: int) -> int:
        """Return the first unit that is needed once so many batches were given."""
        if batches >= self._order.batches:
            return self._plan.unit_count
        return self._order.units_of(batches).start

    @property
    def wants_commit(self) -> bool:
        """Whether a checkpoint now would let the run go on, or soon.

        It does once units that are not needed any more take half of the limit; and where the unit
        that is waited for has no room before they are dropped.
        """
        if self._noted is None:
            return False
        free = self.needs - self._noted
        if free <= 0:
            return False
        if 2 * free >= self._held:
            return True
        missing = self._missing()
        return missing is not None and missing >= self._noted + self._held

    def is_there(self) -> bool:
        """Say whether the next batch can be read, without waiting."""
        if self._missing() is not None:
            return False
        self._rested = 0.0
        return True

    def rest(self) -> None:
        """Wait a little before looking again; say once that it takes long."""
        pause = min(max(POLL, self._rested), LONGEST)
        time.sleep(pause)
        before, self._rested = self._rested, self._rested + pause
        if before < PATIENCE <= self._rested:
            message = (
                f"Waiting for unit {self._missing()} of run {self._run.id!r}, which is not there "
                "yet: `tenterhook runs status` says who is at work, and `tenterhook runs resume` "
                "does what is missing."
            )
            warnings.warn(message, UserWarning, stacklevel=4)

    def wait_for_rows(self, start: int, stop: int) -> Run:
        """Return the run once it has these rows; `DroppedRows` where one was dropped."""
        if self._noted is None:
            self.begin()
        size = self._plan.rows_per_unit
        while self._first_missing(range(start // size, -(-stop // size))) is not None:
            self.rest()
        self._rested = 0.0
        return self._run

    def commit(self, batches: int) -> None:
        """Note that the first so many batches are not asked for again; called once that is so."""
        self._note(self.first_unit(batches))

    def finish(self) -> None:
        """Note that no unit is needed any more, if it is noted that this follows."""
        if self._noted is None:
            known = followers(self._store.run(self._run.id)).get(self.name)
            if known is None or known.reads != self._reads:
                return
            self._noted = known.unit
        self._note(self._plan.unit_count)

    def begin(self) -> None:
        """Note on the run that this follows, from the next batch on.

        A name that is noted goes on, if it reads the same in the same order. Where more was noted
        as read than is, as of a training that is begun anew, the run is asked to hold what it
        still has. Raises `BadSetting`, and `DroppedRows` for a new follower that is too late.
        """
        self._look()
        known = followers(self._run).get(self.name)
        if known is None:
            self._register()
        elif known.reads != self._reads:
            what = f"another name: {self.name!r} follows run {self._run.id!r} already, and reads"
            raise BadSetting("follow", self.name, f"{what} {known.reads}")
        else:
            self._noted = known.unit
        if self._noted is None or self.needs < self._noted:
            self._missing()  # raises where it was dropped: then the run waits for nobody
            self._write(self.needs)

    def _missing(self) -> int | None:
        """Return the first unit that the next batch takes and that is not there."""
        if self._order.given >= self._order.batches:
            return None
        return self._first_missing(self._order.units_of(self._order.given))

    def _first_missing(self, units: range) -> int | None:
        size = self._plan.rows_per_unit
        for looked in (False, True):
            if looked:
                self._look()
            for number in self._run.dropped.intersection(units):
                self._run.ranges.check(range(number * size, number * size + 1))
            missing = [number for number in units if number not in self._run.committed]
            if not missing:
                return None
        return missing[0]

    def _look(self) -> None:
        found = self._store.run(self._run.id)
        if differing := self._plan.differences(found.plan):
            raise ReplacedRun(self._run.id, differing)
        self._run = found

    def _register(self) -> None:
        """Note a new follower, which reads from the first unit on."""
        self._check_nothing_dropped()
        self._write(0)
        try:
            self._look()  # a unit may have been dropped for others meanwhile
            self._check_nothing_dropped()
        except BaseException:
            self._store.set_attribute(self._run.id, ATTRIBUTE + self.name, None)
            self._noted = None
            raise

    def _check_nothing_dropped(self) -> None:
        if self._run.dropped:
            self._run.ranges.check(range(1))

    def _note(self, unit: int) -> None:
        if self._noted is not None and unit > self._noted:
            self._write(unit)

    def _write(self, unit: int) -> None:
        note_follower(self._store, self._run.id, self.name, Follower(unit, self._reads))
        self._noted = unit
