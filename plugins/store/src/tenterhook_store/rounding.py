"""How far apart rows may be that one model gave for the same tokens.

Other batches, kernels and machines add numbers in another order, so the last bits of a row differ.
Here is how large that can be in each dtype, and the measures of it: the relative error of a row,
and units in the last place (ulps) of a value.
"""

import torch
from torch import Tensor

from tenterhook_store.tensors import dtype_name, torch_dtype

BOUNDS = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2, "int8": 0.0}
"""The largest relative error of a row that rounding explains, by dtype; int8 has its own rule.

About ten times the step of the dtype for those of two bytes, whose sums are made in float32: two
kernels of attention, in a model of 32 blocks with random weights, gave 0.031 in bfloat16 and 0.0039
in float16, and the error grows with the root of the depth. For float32, which gave 1.7e-6 there, it
is 840 times the step, for accelerators may multiply it in TF32 or three bfloat16.
"""

FLOAT8 = 0.25
"""The same for every float8."""

INT8_STEPS = 127
"""Steps between 0 and the largest value of a row that is stored as int8."""

FLOOR = 0.01
"""Errors of small rows are measured by this part of what rows of their block measure.

A row near zero is a sum of large numbers that cancel, and has their error.
"""


def bound(dtype: str) -> float:
    """Return the largest relative error of a row that rounding to a dtype explains."""
    return FLOAT8 if dtype.startswith("float8") else BOUNDS.get(dtype, 0.0)


def narrower(one: str, other: str) -> str:
    """Return which of two dtypes, by name, has the larger steps."""
    return max(one, other, key=_step)


def relative_errors(one: Tensor, other: Tensor) -> Tensor:
    """Return by how much each row differs, of what the larger measures; float64 `[rows]`.

    `one` and `other` are `[rows, features]`. Infinite where a value is NaN or infinite in one of
    them alone.
    """
    one, other = _wide(one), _wide(other)
    same = (one == other) | (one.isnan() & other.isnan())
    off = torch.where(same, 0.0, one - other).norm(dim=-1)
    sizes = [torch.where(each.isfinite(), each, 0.0).norm(dim=-1) for each in (one, other)]
    size = torch.maximum(*sizes)
    if len(size):
        size = size.clamp(min=FLOOR * float(size.median()))
    return torch.where(off == 0, 0.0, off / size).nan_to_num(nan=torch.inf)


def are_close(one: Tensor, other: Tensor, dtype: str, errors: Tensor | None = None) -> Tensor:
    """Say of each row whether rounding to a dtype explains the difference; bool `[rows]`.

    `one` and `other` are `[rows, features]`, as they are read; `errors` are their relative errors,
    where these are known. Of rows that were stored as int8
    each value may be off by a step, the largest value of its row through 127.
    """
    if dtype == "int8":
        one, other = _wide(one), _wide(other)
        within = (one - other).abs() <= 1.01 * _int8_step(one, other)
        return (within | (one.isnan() & other.isnan())).all(dim=-1)
    return (relative_errors(one, other) if errors is None else errors) <= bound(dtype)


def ulps(one: Tensor, other: Tensor, dtype: str) -> Tensor:
    """Return how many values of a dtype lie between each two values; float64 of their shape.

    1 is the next value. NaN is as far from a number as can be, and 0 from NaN. For int8, which
    has a scale a row, these are steps of that scale, in whole numbers.
    """
    if dtype == "int8":
        one, other = _wide(one), _wide(other)
        step = _int8_step(one, other)
        return torch.where(step == 0, 0.0, ((one - other).abs() / step).round())
    kind = torch_dtype(dtype)
    if kind.is_complex:
        part = dtype_name(kind.to_real())
        return ulps(torch.view_as_real(one.to(kind)), torch.view_as_real(other.to(kind)), part)
    if not kind.is_floating_point:
        return (one.to(torch.float64) - other.to(torch.float64)).abs()
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[kind.itemsize]
    places = _place(one.to(kind), bits), _place(other.to(kind), bits)
    # From one side of 0 to the other there may be more values than an int64 counts.
    across = (places[0] < 0) ^ (places[1] < 0)
    far = places[0].to(torch.float64) - places[1].to(torch.float64)
    found = torch.where(across, far.abs(), (places[0] - places[1]).abs().to(torch.float64))
    nan = one.isnan(), other.isnan()
    found = torch.where(nan[0] ^ nan[1], torch.inf, found)
    return torch.where(nan[0] & nan[1], 0.0, found)


def _place(values: Tensor, bits: torch.dtype) -> Tensor:
    """Return the place of each value among all of its dtype; 0 is that of 0.0 and of -0.0."""
    # Bits of floats rise with their size, and the first bit is the sign.
    found = values.contiguous().view(bits).to(torch.int64)
    lowest = torch.iinfo(bits).min
    return torch.where(found < 0, lowest - found, found)


def _int8_step(one: Tensor, other: Tensor) -> Tensor:
    """Return the step of each row, `[rows, 1]`: that of the larger of its two."""
    return torch.maximum(one.abs(), other.abs()).amax(dim=-1, keepdim=True) / INT8_STEPS


def _wide(rows: Tensor) -> Tensor:
    if rows.is_complex():
        return torch.view_as_real(rows).flatten(-2).to(torch.float64)
    return rows.to(torch.float64)


def _step(dtype: str) -> float:
    kind = torch_dtype(dtype)
    if dtype == "int8":
        return 1 / INT8_STEPS
    return torch.finfo(kind).eps if kind.is_floating_point or kind.is_complex else 0.0
