"""Rows in a narrower dtype than the layer gave: which of their numbers it cannot hold.

A number beyond the largest becomes an infinity, and one below the smallest becomes 0; both are
counted as rows are cast. Other numbers are rounded, which is what a narrower dtype is for.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

OUT_OF_RANGE = "out_of_range"
"""The key of a unit's record, and of a run's metadata, under which the counts are, by layer."""

COUNTS = ("values", "too_large", "too_small")
"""How many numbers there were, how many of them became an infinity, and how many became 0."""


def is_narrower(dtype: "torch.dtype", than: "torch.dtype") -> bool:
    """Whether there are numbers of the floats `than` that `dtype` has only as infinity or 0."""
    import torch

    if not (dtype.is_floating_point and than.is_floating_point):
        return False
    ours, theirs = torch.finfo(dtype), torch.finfo(than)
    return ours.max < theirs.max or ours.smallest_normal * ours.eps > (
        theirs.smallest_normal * theirs.eps
    )


class RangeMeter:
    """How many numbers of the rows of a layer a cast does not hold, summed up as they come."""

    def __init__(self) -> None:
        self._values = 0
        self._sums: Tensor | None = None

    def add(self, rows: "Tensor", cast: "Tensor") -> None:
        """Count rows, and what became of them, of the same shape; waits for no accelerator."""
        import torch

        self._values += rows.numel()
        lost = [
            torch.isfinite(rows).sum() - torch.isfinite(cast).sum(),
            torch.count_nonzero(rows) - torch.count_nonzero(cast),
        ]
        sums = torch.stack(lost)
        self._sums = sums if self._sums is None else self._sums + sums

    def facts(self) -> dict[str, int]:
        """Return the counts, by the names in `COUNTS`."""
        large, small = (0, 0) if self._sums is None else self._sums.tolist()
        return dict(zip(COUNTS, (self._values, int(large), int(small)), strict=True))


def out_of_range(units: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Sum up what the records of units say, by layer."""
    found: dict[str, dict[str, int]] = {}
    for unit in units:
        for layer, facts in unit.get(OUT_OF_RANGE, {}).items():
            sums = found.setdefault(layer, dict.fromkeys(COUNTS, 0))
            for name in COUNTS:
                sums[name] += int(facts[name])
    return found
