"""Indexes of an array of rows: checked, and brought to one of three forms.

They are numpy's: ints, slices, masks, lists and arrays of ints, `...`, and for a layer a second
index for its features.
"""

import operator
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_store.errors import RowOutOfRange, WrongIndex
from tenterhook_store.row_ranges import RowRanges

WAYS = "an int or a slice, a mask of one bool a row, or a list or array of ints"


@attrs.frozen(eq=False)
class RowIndex:
    """Rows that are asked for, and which of their features."""

    rows: int | range | Tensor
    """One row; rows at equal distances; or any rows, int64 of the shape of what is returned.
    None of them negative, none out of range."""
    features: int | slice | None
    """`None` for all of them."""


def row_index(key: Any, shape: tuple[int, ...], ranges: RowRanges, name: str) -> RowIndex:
    """Read an index of an array of that shape, and of the rows beyond it that are there.

    Raises `RowOutOfRange` (`MissingRows` for one that is not there yet) and `WrongIndex`, each an
    `IndexError`, and `TypeError` for what is no index at all.
    """
    parts = _spelled_out(key, len(shape), name)
    rows = _rows(parts[0], ranges, name)
    ranges.check(rows)
    if len(shape) == 1 or (isinstance(parts[1], slice) and parts[1] == slice(None)):
        return RowIndex(rows, None)
    return RowIndex(rows, _features(parts[1], shape[1], name))


def any_rows(key: Any, ranges: RowRanges, name: str) -> Tensor:
    """Return what a mask, list or array stands for: int64 row numbers, of the array's shape.

    Of a mask, a number for each place that is true. Raises `WrongIndex` for a mask of another
    length and for floats, `RowOutOfRange` for a row that the array has not (both an `IndexError`).
    """
    found = _tensor(key, name)
    if found.dtype is torch.bool:
        if found.shape not in ((ranges.first,), (ranges.planned,)):
            rows = " or ".join(map(str, dict.fromkeys((ranges.first, ranges.planned))))
            reason = f"a mask has one value for each of its {rows} rows, and this one is"
            raise WrongIndex(name, f"{reason} {list(found.shape)}")
        return found.nonzero().flatten()
    if found.is_floating_point() or found.is_complex():
        kind = str(found.dtype).removeprefix("torch.")
        raise WrongIndex(name, f"rows are ints or bools, and these are {kind}")
    found = found.to(torch.int64)
    if found.numel():
        low, high = (int(each) for each in found.aminmax())
        for row in (low, high):
            _check_bounds(row, ranges, name)
        if low < 0:
            found = torch.where(found < 0, found + ranges.first, found)
    return found


def _check_bounds(row: int, ranges: RowRanges, name: str) -> None:
    """Negative numbers count from the end of the first rows; others are those of the plan."""
    if not -ranges.first <= row < ranges.planned:
        raise RowOutOfRange(row, ranges.first if row < 0 else ranges.planned, name)


def _spelled_out(key: Any, axes: int, name: str) -> list[Any]:
    """Return an index for each axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [at for at, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise WrongIndex(name, "'...' may stand in it once")
    if len(parts) - len(dots) > axes:
        raise WrongIndex(name, f"it has {axes} axes, and {len(parts) - len(dots)} are indexed")
    rest = [slice(None)] * (axes - len(parts) + len(dots))
    at = dots[0] if dots else len(parts)
    return [*parts[:at], *rest, *parts[at + len(dots) :]]


def _rows(key: Any, ranges: RowRanges, name: str) -> int | range | Tensor:
    if isinstance(key, slice):
        return range(*key.indices(ranges.reach(key)))
    if isinstance(key, bool) or key is None:
        raise TypeError(f"Rows are read by {WAYS}, not by {key}.")
    if isinstance(key, Tensor) and (key.ndim or key.dtype is torch.bool):
        return any_rows(key, ranges, name)  # torch takes one of one element for an int
    try:
        row = operator.index(key)
    except TypeError:
        return any_rows(key, ranges, name)
    _check_bounds(row, ranges, name)
    return row + ranges.first if row < 0 else row


def _features(key: Any, width: int, name: str) -> int | slice:
    if isinstance(key, slice):
        return key
    try:
        feature = operator.index(key)
    except TypeError:
        kind = type(key).__name__
        raise TypeError(f"Features are read by an int or a slice, not by a {kind}.") from None
    if not -width <= feature < width:
        raise WrongIndex(name, f"it has {width} features, and {feature} is not among them")
    return feature


def _tensor(key: Any, name: str) -> Tensor:
    if isinstance(key, Tensor):
        return key.detach().cpu()
    if hasattr(key, "__array__"):
        import numpy as np

        array = np.asarray(key)
        if array.dtype.kind not in "biu":
            raise WrongIndex(name, f"rows are ints or bools, and these are {array.dtype}")
        kind = np.bool_ if array.dtype.kind == "b" else np.int64
        return torch.from_numpy(np.array(array, dtype=kind))
    if not isinstance(key, Sequence) or isinstance(key, str | bytes):
        raise TypeError(f"Rows are read by {WAYS}, not by a {type(key).__name__}.")
    if not len(key):
        return torch.empty(0, dtype=torch.int64)
    bools = sum(isinstance(each, bool) for each in key)
    if 0 < bools < len(key):
        raise WrongIndex(name, "bools and ints do not mix")
    try:
        return torch.tensor(key)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"Rows are read by {WAYS} ({error}).") from None
