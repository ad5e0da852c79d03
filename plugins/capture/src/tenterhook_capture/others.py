"""What other processes do of a run, looked at in the store from time to time.

A process that does a slice of a run shows how far the whole run is. It asks the store alone: which
units are committed that are not its own, and which processes said lately that they live.
"""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Collection
from typing import Any

from tenterhook.errors import TenterhookError
from tenterhook_capture.status import open_sessions
from tenterhook_store import RunPlan, RunWriter, Store

LOOK = 10.0
"""Seconds between two looks at least."""

SHARE = 0.05
"""The part of the time that looking may take: a run of very many units is looked at less often."""


class Others:
    """The rows that other processes committed, and how many processes are at work."""

    def __init__(self, store: Store, writer: RunWriter, own: range) -> None:
        """`own` are the numbers of the units that this process is to do."""
        self._store, self._writer, self._own = store, writer, own
        self._next = 0.0
        self.rows = 0
        """Rows of the units that are committed and not this process's to do."""
        self.count = 0
        """How many are at work on the run."""

    def look(self) -> None:
        """Look again, if it is time; the numbers stay as they are where the store does not say."""
        began = time.monotonic()
        if began < self._next:
            return
        # How far others are is no reason to stop; what is wrong with the store the work will meet.
        with contextlib.suppress(OSError, TenterhookError):
            plan = self._writer.plan
            if len(self._own) < plan.unit_count:
                committed = self._writer.committed()
                self.rows = _rows(plan, committed, lambda number: number not in self._own)
            sessions = self._store.run(self._writer.run_id).recent(0)["sessions"]
            self.count = sum(not each.is_silent for each in open_sessions(_not_this(sessions)))
        took = time.monotonic() - began
        self._next = time.monotonic() + max(LOOK, took / SHARE)


def _rows(plan: RunPlan, numbers: Collection[int], counts: Callable[[int], bool]) -> int:
    """Return the rows of some units, without making each."""
    last = plan.unit_count - 1
    rows = sum(map(counts, numbers)) * plan.rows_per_unit
    if last in numbers and counts(last):
        rows -= plan.rows_per_unit - plan.unit(last).rows
    return rows


def _not_this(sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = platform.node(), os.getpid()
    return [each for each in sessions if (each.get("host"), each.get("process")) != own]
