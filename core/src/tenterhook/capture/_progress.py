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
        self._new = 0
        self._began = time.perf_counter()

    def add(self, rows: int) -> None:
        """Count rows that are written."""
        self._new += rows
        if self._callback is not None:
            self._callback(
                Progress(
                    run_id=self._run_id,
                    rows=self._before + self._new,
                    rows_total=self._total,
                    rows_new=self._new,
                    bytes_new=self._new * self._row_bytes,
                    seconds=time.perf_counter() - self._began,
                )
            )
