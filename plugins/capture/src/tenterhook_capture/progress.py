"""How far a capture is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from tenterhook_capture.others import Others
from tenterhook_store.progress import showing, somebody_looks


@attrs.frozen(kw_only=True)
class Progress:
    """How far a capture is, after some batch."""

    run_id: str
    rows: int
    """Of the whole run: computed here or committed so far, by any process and in any session."""
    rows_total: int
    """Of the whole run."""
    rows_new: int
    """Computed in this session, by this process and the workers that it sent for."""
    rows_left_here: int = attrs.Factory(lambda self: self.rows_total - self.rows, takes_self=True)
    """Rows that this process has still to do, of its slice of the run."""
    rows_gained: int = attrs.Factory(lambda self: self.rows_new, takes_self=True)
    """By which the run grew since this session began, whoever computed them."""
    workers: int = 1
    """At work on the run: those of this session, and the other processes that the store says."""
    bytes_new: int
    """Bytes of layers written in this session."""
    seconds: float
    """Since this session began."""

    @property
    def rows_per_second(self) -> float:
        """The rate of all processes since this session began; 0 before the first batch."""
        return self.rows_gained / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest of the run takes at this rate; `None` before there is a rate."""
        rate = self.rows_per_second
        return (self.rows_total - self.rows) / rate if rate else None


ProgressCallback = Callable[[Progress], None]
"""Is called when a capture starts, after every batch, and at its end."""


@contextmanager
def told(
    progress: ProgressCallback | None, what: str, rows: int
) -> Iterator[ProgressCallback | None]:
    """Give a callback: the one given, else one that shows how far it is, where somebody looks."""
    if progress is not None or not somebody_looks():
        yield progress
        return
    with showing(what, rows) as work:
        yield lambda now: work.reach(now.rows, now.rows_total)


class Meter:
    """Counts rows and tells a callback.

    `rows` are those that were there before of this process's units, of which there are `rows_total`
    in all; the rows of the others are theirs to say.
    """

    def __init__(
        self,
        callback: ProgressCallback | None,
        *,
        run_id: str,
        rows: int,
        rows_total: int,
        row_bytes: int,
        run_rows: int,
        others: Others,
        workers: Callable[[], int] = lambda: 1,
    ) -> None:
        """`workers` says how many of this session's own are at work."""
        self._callback = callback
        self._workers = workers
        self._others = others
        self._run_rows = run_rows
        self._first: int | None = None
        """Rows of the whole run when this session began."""
        self._run_id = run_id
        self._before = rows
        self._total = rows_total
        self._row_bytes = row_bytes
        self._settled = 0
        self._open = 0
        self._began = time.perf_counter()
        self.raised: BaseException | None = None
        """What the callback raised, which is no unit's fault."""

    def add(self, rows: int) -> None:
        """Count rows of a unit that is being done."""
        self._open += rows
        self._tell()

    def settle(self, rows: int) -> None:
        """Count the rows of a unit that is done, wherever that was."""
        self._settled += rows
        seen, self._open = self._open, max(self._open - rows, 0)
        if seen < rows:  # it was done in another process, which tells nothing meanwhile
            self._tell()

    def drop(self) -> None:
        """Count no rows of a unit that failed."""
        self._open = 0

    def left(self, rows: int) -> None:
        """Count what the store has, so many rows being left: a lost worker may have committed."""
        done = self._total - self._before - rows
        if done > self._settled:
            self._settled, self._open = done, 0
            self._tell()

    def _tell(self) -> None:
        if self._callback is None:
            return
        self._others.look()
        new = min(self._settled + self._open, self._total - self._before)
        rows = self._before + new + self._others.rows
        self._first = rows if self._first is None else self._first
        found = Progress(
            run_id=self._run_id,
            rows=rows,
            rows_total=self._run_rows,
            rows_new=new,
            rows_left_here=self._total - self._before - new,
            rows_gained=rows - self._first,
            workers=self._others.count + max(self._workers(), 1),
            bytes_new=new * self._row_bytes,
            seconds=time.perf_counter() - self._began,
        )
        try:
            self._callback(found)
        except BaseException as error:
            self.raised = error
            raise
