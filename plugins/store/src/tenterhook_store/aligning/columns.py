"""The arrays of two aligned runs that are read together: rows that are partners, side by side."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from tenterhook_store.aligning.pairs import Pairs
from tenterhook_store.columns import Also, Batch, Columns, Room
from tenterhook_store.errors import BadSetting
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import RowRanges


@final
class AlignedColumns:
    """What `Columns` is to one run: its rows go by their places in a part of the pairs."""

    def __init__(
        self,
        a: Readable,
        b: Readable,
        pairs: Pairs,
        layers: Any,
        also: Sequence[Also],
        part: RowRanges,
    ) -> None:
        """Raises `NotCaptured` for a layer that its run has not, `BadSetting`."""
        self._pairs, self._part = pairs, part
        self._runs = a, b
        self._sides = [
            Columns(run, layer, also, RowRanges.whole(run.plan.rows))
            for run, layer in zip((a, b), layers_of(layers), strict=True)
        ]

    def slice(self, start: int, stop: int) -> list[Tensor]:
        """Read the rows of the pairs from one place to another, of each array of each run."""
        parts = [self._pairs.block(*each) for each in self._part.stretches(start, stop)]
        pairs = parts[0] if len(parts) == 1 else torch.cat(parts)
        return [
            array
            for run, side, rows in zip(self._runs, self._sides, pairs.unbind(1), strict=True)
            for array in _near(run, side, rows)
        ]

    def take(self, places: Tensor, *, check: bool) -> list[Tensor]:
        """Read the rows of the pairs at any places, int64 `[n]`, in their order."""
        pairs = self._pairs.take(self._part.numbers(places))
        return [
            array
            for side, rows in zip(self._sides, pairs.unbind(1), strict=True)
            for array in side.take(rows, check=check)
        ]

    def batch(self, tensors: list[Tensor]) -> Batch:
        """Return them as they are handed out: what each run gives, in a tuple."""
        count = len(self._sides[0].kinds)
        parts = tensors[:count], tensors[count:]
        return tuple(side.batch(part) for side, part in zip(self._sides, parts, strict=True))

    def room(self, rows: int) -> Room:
        """Return memory for so many rows of each array."""
        return Room(rows, [kind for side in self._sides for kind in side.kinds])


def layers_of(layers: Any) -> tuple[Any, Any]:
    """Return what is asked of each run: one layer of both, or what is asked of each in turn."""
    if isinstance(layers, str | int):
        return layers, layers
    if not isinstance(layers, Sequence) or len(layers) != 2:
        raise BadSetting("layers", layers, "a layer of both runs, or two: of the first, the second")
    return layers[0], layers[1]


def _near(run: Readable, side: Columns, rows: Tensor) -> list[Tensor]:
    """Read rows that stand near each other: in one piece, with the few between them."""
    first, stop = int(rows.min()), int(rows.max()) + 1
    if stop - first > 2 * len(rows) + 64 or run.ranges.next_missing(first) < stop:
        return side.take(rows, check=True)
    found = side.slice(first, stop)
    if stop - first == len(rows) and bool((rows.diff() == 1).all()):
        return found
    return [each[rows - first] for each in found]
