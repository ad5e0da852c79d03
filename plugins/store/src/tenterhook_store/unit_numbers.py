"""Numbers of units, as stretches: a plan may have more units than fit in memory."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, final, overload


@final
class UnitNumbers(Sequence[int]):
    """Rising numbers. It equals a tuple or list of the same numbers."""

    def __init__(self, stretches: Iterable[tuple[int, int]]) -> None:
        """Of rising stretches `first, stop` that do not touch."""
        self._ranges = tuple(range(first, stop) for first, stop in stretches if first < stop)
        self._places = list(accumulate((len(each) for each in self._ranges), initial=0))

    @classmethod
    def missing(cls, committed: frozenset[int], count: int, first: int = 0) -> "UnitNumbers":
        """Return the numbers below `count`, from `first`, that are not committed.

        The work follows what is committed.
        """
        if first == 0 and len(committed) == count and max(committed, default=-1) < count:
            return cls([])  # all of them, without sorting
        last, stretches = first, list[tuple[int, int]]()
        for number in sorted(committed):
            if number < first:
                continue
            if number >= count:
                break
            stretches.append((last, number))
            last = number + 1
        return cls([*stretches, (last, count)])

    def stretches(self, limit: int | None = None) -> list[list[int]]:
        """Return the first and last number of each stretch, of as many as `limit` says."""
        return [[each.start, each.stop - 1] for each in self._ranges[:limit]]

    def __len__(self) -> int:
        return self._places[-1]

    def __iter__(self) -> Iterator[int]:
        for each in self._ranges:
            yield from each

    def __contains__(self, number: object) -> bool:
        return any(number in each for each in self._ranges)

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[int, ...]: ...
    def __getitem__(self, key: int | slice) -> int | tuple[int, ...]:
        if isinstance(key, slice):
            return tuple(self[at] for at in range(*key.indices(len(self))))
        at = key + len(self) if key < 0 else key
        if not 0 <= at < len(self):
            raise IndexError(f"{key} is not among {len(self)} numbers of units.")
        stretch = bisect_right(self._places, at) - 1
        return self._ranges[stretch][at - self._places[stretch]]

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, UnitNumbers):
            return self._ranges == other._ranges
        if not isinstance(other, tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = [f"{each.start}-{each.stop - 1}" for each in self._ranges[:10]]
        more = [f"{len(self._ranges) - 10} more stretches"] if len(self._ranges) > 10 else []
        return f"UnitNumbers({', '.join(shown + more)})"
