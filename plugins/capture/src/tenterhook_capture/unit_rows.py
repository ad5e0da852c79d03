"""How many rows a unit has: as many as were asked for, or a few more.

A store keeps a unit as whole chunks, of 256 rows where these divide it. Of a unit whose rows have
no divisor near that, chunks would be of a few rows, which readers take tens of times as long for.
So such a number is rounded up. A run that was begun with one goes on with it.
"""

import attrs

from tenterhook.errors import TenterhookWarning

CHUNK = 256
"""Rows of a chunk; a unit of fewer is one chunk, and any number of them is."""

FEW = 64
"""Chunks of fewer rows than this are avoided."""


@attrs.define(slots=False)
class UnitsRounded(TenterhookWarning):
    """A run has units of another number of rows than was asked for."""

    asked: int
    rows: int

    def __str__(self) -> str:
        return (
            f"rows_per_unit={self.asked:,} would be stored in chunks of a few rows, which are slow "
            f"to read; it is rounded to {self.rows:,}, a multiple of {CHUNK}, as which it belongs "
            "to the run."
        )


def rounded_rows(rows: int) -> int:
    """Return the rows of a unit, rounded up where a store would have chunks of a few of them."""
    if rows <= CHUNK or any(rows % chunk == 0 for chunk in range(FEW, CHUNK + 1)):
        return rows
    return -(-rows // CHUNK) * CHUNK
