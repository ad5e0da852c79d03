"""How far a capture is."""

import time
from collections.abc import Callable

import attrs


@attrs.frozen(kw_only=True)
class Progress:
    """How far a capture is, after some batch."""

    run_id: str
    rows: int
    """Computed or committed so far, those of earlier sessions among them."""
    rows_total: int
    rows_new: int
    """Computed in this session."""
    bytes_new: int
    """Bytes of layers written in this session."""
    seconds: float
    """Since this session began."""

    @property
    def rows_per_second(self) -> float:
        """The rate of this session; 0 before the first batch."""
        return self.rows_new / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; `None` before there is a rate."""
        rate = self.rows_per_second
        return (self.rows_total - self.rows) / rate if rate else None


ProgressCallback = Callable[[Progress], None]
"""Is called when a capture starts, after every batch, and at its end."""


class Meter:
    """Counts rows and tells a callback."""

    def __init__(
        self,
        callback: ProgressCallback | None,
        *,
        run_id: str,
        rows: int,
        rows_total: int,
        row_bytes: int,
    ) -> None:
        self._callback = callback
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

    def _tell(self) -> None:
        if self._callback is None:
            return
        new = min(self._settled + self._open, self._total - self._before)
        found = Progress(
            run_id=self._run_id,
            rows=self._before + new,
            rows_total=self._total,
            rows_new=new,
            bytes_new=new * self._row_bytes,
            seconds=time.perf_counter() - self._began,
        )
        try:
            self._callback(found)
        except BaseException as error:
            self.raised = error
            raise
