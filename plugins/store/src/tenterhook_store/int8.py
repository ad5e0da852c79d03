"""Rows as int8 with a float32 scale each: a quarter of float32, and how far off it is.

A row `x` is stored as `round(x / scale)` with `scale = max(abs(x)) / 127`, so that a number is off
by half a scale at most. A row that has an infinity or NaN in it, or a number that is one in
float32, reads as NaN throughout.
"""

import torch
from torch import Tensor

from tenterhook_store.row_ranges import RowRanges
from tenterhook_store.rows import Rows


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as int8, and the scale of each.

    Takes floats `[rows, features]`; returns int8 `[rows, features]` and float32 `[rows, 1]`, on
    the same device. The scale of a row that is not finite is infinite or NaN.
    """
    values = rows.to(torch.float32)
    scale = _scale(values.abs().amax(1, keepdim=True))
    steps = torch.nan_to_num(values / torch.where(scale > 0, scale, 1.0), posinf=0, neginf=0)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def _scale(largest: Tensor) -> Tensor:
    """Return a 127th of each number, rounded such that 127 of it are finite and no less.

    The division rounds. Where the result is so small that float32 has few bits for it, 127 of it
    may be less than the number; at the largest numbers, 127 of it may be infinite. One step to the
    next float mends either.
    """
    scale = largest / 127
    above, below = (torch.nextafter(scale, torch.full_like(scale, end)) for end in (torch.inf, 0))
    is_short = (scale < torch.finfo(scale.dtype).tiny) & (scale * 127 < largest)
    is_over = torch.isinf(scale * 127) & torch.isfinite(largest)
    return torch.where(is_short, above, torch.where(is_over, below, scale))


def dequantize(steps: Tensor, scale: Tensor) -> Tensor:
    """Return int8 `[rows, features]` and its scales `[rows, 1]` as float32 again."""
    return steps.to(torch.float32) * scale


class ErrorMeter:
    """How far rows are from what is stored of them, summed up as they come."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._most: Tensor | None = None

    def add(self, rows: Tensor, steps: Tensor, scale: Tensor) -> None:
        """Count rows, as `quantize` took and returned them; waits for no accelerator.

        `rows` are `[rows, features]`, `steps` int8 of that shape, `scale` `[rows, 1]`.
        Rows that are not finite are counted, and are in none of the figures.
        """
        is_finite = torch.isfinite(scale)
        exact = torch.where(is_finite, rows.double(), 0.0)
        off = torch.where(is_finite, dequantize(steps, scale).double(), 0.0) - exact
        sums = torch.stack([off.square().sum(), exact.square().sum(), (~is_finite).sum().double()])
        most = off.abs().max()
        self._sums = sums if self._sums is None else self._sums + sums
        self._most = most if self._most is None else torch.maximum(self._most, most)

    def facts(self) -> dict[str, float]:
        """Return `max_error`, `squared_error`, `squared` (sums) and `rows_not_finite`."""
        if self._sums is None or self._most is None:
            return {"max_error": 0.0, "squared_error": 0.0, "squared": 0.0, "rows_not_finite": 0}
        error, total, broken = self._sums.tolist()
        return {
            "max_error": float(self._most),
            "squared_error": error,
            "squared": total,
            "rows_not_finite": int(broken),
        }


def int8_rows(steps: Rows, scale: Rows, ranges: RowRanges) -> Rows:
    """Return the floats of two arrays, read as they are indexed."""
    return Rows(
        steps.name,
        steps.shape,
        torch.float32,
        lambda start, stop: dequantize(steps[start:stop], scale[start:stop]),
        lambda rows, check: dequantize(
            steps.take(rows, check=check), scale.take(rows, check=check)
        ),
        ranges,
    )
