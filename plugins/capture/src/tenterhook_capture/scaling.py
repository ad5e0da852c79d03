"""What many workers make of a capture: arithmetic from what a dry run measured, and no claim more.

Each worker is taken to be as fast as this machine was, units are handed out one at a time, and
loading the model is not counted.
"""

from typing import Any

import attrs

from tenterhook_capture.estimating import Estimate


@attrs.frozen(kw_only=True)
class WorkersEstimate:
    """A capture done by several workers at once."""

    engine: str
    workers: int
    idle: int
    """Workers for which there is no unit."""
    units_per_worker: int
    """Of those that are missing, the most that one does."""
    rows_per_unit: int
    """Of a whole unit."""
    unit_bytes: int
    unit_seconds: float
    """What a whole unit takes a worker, at the rate that was measured."""
    seconds: float
    """From the first unit to the last."""
    bytes_per_second: float
    """What all workers write together, where each is at work."""
    tokens_bytes: int
    """Of the token ids that they share, in the store."""

    @classmethod
    def of(cls, found: Estimate, engine: str, workers: int) -> "WorkersEstimate":
        """Work it out."""
        rows = min(found.rows_per_unit, found.rows)
        unit_seconds = rows / found.rows_per_second
        most = -(-found.units_missing // workers)
        row_bytes = found.bytes // found.rows
        busy = min(workers, found.units_missing)
        return cls(
            engine=engine,
            workers=workers,
            idle=workers - busy,
            units_per_worker=most,
            rows_per_unit=rows,
            unit_bytes=rows * row_bytes,
            unit_seconds=unit_seconds,
            seconds=min(most * unit_seconds, found.seconds),
            bytes_per_second=busy * row_bytes * found.rows_per_second,
            tokens_bytes=found.tokens_bytes,
        )

    def values(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return attrs.asdict(self)
