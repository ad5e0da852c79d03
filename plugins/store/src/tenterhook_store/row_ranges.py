"""Which rows of a run are there: all of them, or those around the units that are missing.

Numbers alone: importing this imports no torch, which `ranges` is used without.
"""

import itertools
import operator
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Literal, final, get_args

from tenterhook_store.errors import BadSetting, DroppedRows, MissingRows
from tenterhook_store.plan import RunPlan
from tenterhook_store.unit_numbers import UnitNumbers

if TYPE_CHECKING:
    from torch import Tensor

Missing = Literal["stop", "skip"]
"""What is made of rows that are not there: end before the first of them, or leave them out."""

RANGES = 100
"""How many stretches of numbers a run's metadata names; all are counted."""


def ranges(numbers: Iterable[int], limit: int | None = RANGES) -> list[list[int]]:
    """Return rising numbers as `[first, last]` of each stretch, up to `limit` stretches."""
    if isinstance(numbers, UnitNumbers):
        return numbers.stretches(limit)
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        elif len(found) == limit:
            break
        else:
            found.append([number, number])
    return found


@final
class RowRanges:
    """The numbers of the rows that are there: slices in their order, as many as they need to be.

    A complete run has one. Iterating gives the slices, and `len` says how many there are.
    """

    def __init__(
        self,
        ranges: Iterable[tuple[int, int]],
        *,
        planned: int,
        rows_per_unit: int,
        run_id: str = "",
        dropped: frozenset[int] = frozenset(),
        keep: int = 0,
    ) -> None:
        """Of rising ranges `start, stop` that do not touch; `planned` is of all the run.

        Of a run with a limit, `dropped` are the units that it does not hold any more.
        """
        self._ranges = tuple(each for each in ranges if each[0] < each[1])
        self._starts = [start for start, _ in self._ranges]
        lengths = (stop - start for start, stop in self._ranges)
        self._places = list(itertools.accumulate(lengths, initial=0))
        """The place that each range begins at where they stand in one piece, and the last ends."""
        self._rows_per_unit = rows_per_unit
        self._run_id = run_id
        self._dropped, self._keep = dropped, keep
        self.planned = planned
        """Rows of the run when it is complete."""
        self.rows = self._places[-1]
        """How many rows are there."""
        self.first = self.next_missing(0)
        """How many rows are there before the first that is missing."""
        self.end = self._ranges[-1][1] if self._ranges else 0
        """The row after the last that is there."""

    @classmethod
    def of_units(
        cls,
        committed: frozenset[int],
        plan: RunPlan,
        run_id: str,
        *,
        dropped: frozenset[int] = frozenset(),
        keep: int = 0,
    ) -> "RowRanges":
        """Return those of the units of these numbers, but for those that were dropped."""
        size, count = plan.rows_per_unit, plan.unit_count
        there = committed - dropped if dropped else committed
        known = sorted(number for number in there if 0 <= number < count)
        found = [[0, count]] if len(known) == count else []
        for number in known if not found else ():
            if found and found[-1][1] == number:
                found[-1][1] += 1
            else:
                found.append([number, number + 1])
        return cls(
            ((first * size, min(stop * size, plan.rows)) for first, stop in found),
            planned=plan.rows,
            rows_per_unit=size,
            run_id=run_id,
            dropped=dropped,
            keep=keep,
        )

    @classmethod
    def whole(cls, rows: int) -> "RowRanges":
        """Return those of a run of which nothing is missing."""
        return cls([(0, rows)], planned=rows, rows_per_unit=max(rows, 1))

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[slice]:
        return (slice(start, stop) for start, stop in self._ranges)

    def __repr__(self) -> str:
        shown = [f"{start}:{stop}" for start, stop in self._ranges[:10]]
        more = [f"{len(self) - 10} more"] if len(self) > 10 else []
        return f"RowRanges({', '.join(shown + more)})"

    def pairs(self) -> list[list[int]]:
        """Return them as `[start, stop]`, plain JSON values."""
        return [list(each) for each in self._ranges]

    # --- what is there

    def next_missing(self, row: int) -> int:
        """Return the first row from this one on that is not there."""
        at = bisect_right(self._starts, row) - 1
        return max(row, self._ranges[at][1]) if at >= 0 else row

    def reach(self, key: slice) -> int:
        """Return how long the array is that a slice is of.

        A slice that names a row beyond the first rows is of all there are, any other of these.
        """
        named = [operator.index(each) for each in (key.start, key.stop) if each is not None]
        beyond = bool(named) and min(named) >= 0 and max(named) > self.first
        return self.end if beyond else self.first

    def check(self, rows: "int | range | Tensor") -> None:
        """Raise `MissingRows` unless all of them, one or many of any shape, are there."""
        import torch

        if isinstance(rows, int):
            rows = range(rows, rows + 1)
        if isinstance(rows, range):
            if not rows or self.next_missing(min(rows[0], rows[-1])) > max(rows[0], rows[-1]):
                return
            rows = torch.arange(rows.start, rows.stop, rows.step)
        if not rows.numel() or int(rows.max()) < self.first:
            return
        starts, stops, _ = self._edges
        lost = rows[rows >= stops[torch.searchsorted(starts, rows, right=True)]]
        if lost.numel():
            raise self._missing(int(lost.flatten()[0]))

    @cached_property
    def _edges(self) -> "tuple[Tensor, Tensor, Tensor]":
        """Where each range begins; where each ends, after a 0; at which place each begins."""
        import torch

        stops = [0, *(stop for _, stop in self._ranges)]
        found = [torch.tensor(each, dtype=torch.int64) for each in (self._starts, stops)]
        return found[0], found[1], torch.tensor(self._places)

    def _missing(self, row: int) -> MissingRows:
        unit = row // self._rows_per_unit
        start = unit * self._rows_per_unit
        stop = min(start + self._rows_per_unit, self.planned)
        facts = row, unit, (start, stop), self.rows, self.planned, self._run_id
        return DroppedRows(*facts, self._keep) if unit in self._dropped else MissingRows(*facts)

    # --- parts of it, in one piece

    def within(self, start: int, stop: int) -> "RowRanges":
        """Return what is there of rows `start` to `stop`."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        last = max(bisect_right(self._starts, stop), first)
        some = ((max(a, start), min(b, stop)) for a, b in self._ranges[first:last])
        return RowRanges(
            some,
            planned=self.planned,
            rows_per_unit=self._rows_per_unit,
            run_id=self._run_id,
            dropped=self._dropped,
            keep=self._keep,
        )

    def part(self, rows: slice, missing: Missing | None) -> "RowRanges":
        """Return what is there of a part of the run; see `Run.loader`.

        Raises `BadSetting`, and `MissingRows` where rows are asked for that are not there.
        """
        if missing is not None and missing not in get_args(Missing):
            raise BadSetting("missing", missing, " or ".join(map(repr, get_args(Missing))))
        found = range(*rows.indices(self.end if missing == "skip" else self.reach(rows)))
        if found.step != 1:
            raise BadSetting("rows", rows, "a slice of rows that follow each other")
        if missing != "skip":
            self.check(found)
        if missing is None and rows.stop is None and found.stop < self.end:
            self._warn(found.stop)
        return self.within(found.start, found.stop)

    def _warn(self, row: int) -> None:
        message = (
            f"Run {self._run_id!r} lacks unit {row // self._rows_per_unit}, and the "
            f"{self.rows - self.first:,} rows that are there after it are left out: "
            'missing="skip" takes them too, missing="stop" says that they may be.'
        )
        warnings.warn(message, UserWarning, stacklevel=5)

    def stretches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Return the rows from one place to another, as ranges `start, stop` of row numbers."""
        at = bisect_right(self._places, start) - 1
        while start < stop:
            first = self._starts[at] + start - self._places[at]
            length = min(self._places[at + 1], stop) - start
            yield first, first + length
            start += length
            at += 1

    def numbers(self, places: "Tensor") -> "Tensor":
        """Return the numbers of the rows at some places, int64 of the same shape."""
        import torch

        if len(self) == 1:
            return places + self._starts[0]
        starts, _, begins = self._edges
        at = torch.searchsorted(begins, places, right=True) - 1
        return places - begins[at] + starts[at]
