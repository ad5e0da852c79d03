"""How far the rows of one layer are apart in two runs, added up a block of rows at a time."""

import math

import attrs
import torch
from torch import Tensor

from tenterhook_store.rounding import are_close, narrower, relative_errors, ulps

MOST_ULPS = 1023
"""Ulps are counted one by one up to here, and together beyond."""


@attrs.frozen(kw_only=True)
class LayerComparison:
    """How far the rows of one layer are apart, over all rows that have a partner."""

    layer: str
    verdict: str
    """`equal` bits; `close`: rounding explains the difference; `different`; or `not compared`,
    where no row has a partner."""
    dtype: str
    """What both were brought to for `ulps`: the narrower of their dtypes."""
    rows: int
    """Rows with a partner."""
    rows_equal: int
    """Those of equal values."""
    rows_different: int
    """Those further apart than rounding explains."""
    cosine_mean: float | None
    """Of each row and its partner; `None` without rows."""
    cosine_least: float | None
    relative_error: float | None
    """What the differences measure, of what the first run's rows measure, over all rows."""
    relative_error_most: float | None
    """That of the worst row."""
    ulps_median: int | None
    """Units in the last place of `dtype`, of the median value."""
    ulps_99: int | None
    """Of the value that 99 % are no further apart than."""
    ulps_most: float | None

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.layer}: not compared, no row has a partner"
        return (
            f"{self.layer}: {self.verdict}, {self.rows_different:,} of {self.rows:,} rows differ, "
            f"cosine {self.cosine_mean:.6f} (least {self.cosine_least:.6f}), "
            f"relative error {self.relative_error:.2g} (most {self.relative_error_most:.2g}), "
            f"ulps of {self.dtype}: median {_ulps(self.ulps_median)}, 99 % {_ulps(self.ulps_99)}, "
            f"most {self.ulps_most:.4g}"
        )


class LayerMeter:
    """Compares the rows of one layer."""

    def __init__(self, layer: str, dtype_a: str, dtype_b: str) -> None:
        self._layer = layer
        self.dtype = narrower(dtype_a, dtype_b)
        self._rows = self._equal = self._different = 0
        self._cosine, self._cosine_least = 0.0, 1.0
        self._off, self._size, self._error_most = 0.0, 0.0, 0.0
        self._ulps = torch.zeros(MOST_ULPS + 1, dtype=torch.int64)
        self._ulps_most = 0.0

    def add(self, one: Tensor, other: Tensor) -> Tensor:
        """Compare rows, `[rows, features]` of both; say which differ, bool `[rows]`."""
        self._rows += len(one)
        # Rows of equal values, as most are of runs that are alike, need no more than their size.
        is_other = ~((one == other) | ((one != one) & (other != other))).all(dim=-1)
        count = len(one) - int(is_other.sum())
        self._equal += count
        self._cosine += count
        self._ulps[0] += count * math.prod(one.shape[1:])
        self._size += float(_finite(one).square().sum())
        if count < len(one):
            is_other[is_other.clone()] = self._add_unequal(one[is_other], other[is_other])
        return is_other

    def _add_unequal(self, one: Tensor, other: Tensor) -> Tensor:
        """Measure rows that are not equal; say which are further apart than rounding explains."""
        apart = ulps(one, other, self.dtype)
        counted = apart.clamp(max=MOST_ULPS).to(torch.int64).flatten()
        self._ulps += counted.bincount(minlength=MOST_ULPS + 1)
        self._ulps_most = max(self._ulps_most, float(apart.max()))
        errors = relative_errors(one, other)
        self._error_most = max(self._error_most, float(errors.max()))
        wide, off = _finite(one), _finite(other)
        self._off += float((wide - off).square().sum())
        cosine = torch.cosine_similarity(wide, off, dim=-1)
        self._cosine += float(cosine.sum())
        self._cosine_least = min(self._cosine_least, float(cosine.min()))
        different = ~are_close(one, other, self.dtype, errors)
        self._different += int(different.sum())
        return different

    def found(self) -> LayerComparison:
        """Return what was found so far."""
        verdict = "different" if self._different else "close"
        verdict = "equal" if self._equal == self._rows else verdict
        some = self._rows > 0
        return LayerComparison(
            layer=self._layer,
            verdict=verdict if some else "not compared",
            dtype=self.dtype,
            rows=self._rows,
            rows_equal=self._equal,
            rows_different=self._different,
            cosine_mean=self._cosine / self._rows if some else None,
            cosine_least=self._cosine_least if some else None,
            relative_error=self._relative() if some else None,
            relative_error_most=self._error_most if some else None,
            ulps_median=self._quantile(0.5) if some else None,
            ulps_99=self._quantile(0.99) if some else None,
            ulps_most=self._ulps_most if some else None,
        )

    def _relative(self) -> float:
        if self._off == 0:
            return 0.0
        return (self._off / self._size) ** 0.5 if self._size else float("inf")

    def _quantile(self, part: float) -> int:
        counts = self._ulps.cumsum(0)
        return int(torch.searchsorted(counts, max(1, round(part * int(counts[-1])))))


def _finite(rows: Tensor) -> Tensor:
    wide = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
    return wide.to(torch.float64).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _ulps(count: int | None) -> str:
    return f"{MOST_ULPS:,} or more" if count == MOST_ULPS else f"{count:,}"
