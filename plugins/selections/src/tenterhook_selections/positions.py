"""Positions along an axis, as users write them: `3`, `[0, -1]`, `"2:5"`, `"last"`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Where = int | str | slice | Sequence[int]
"""Positions: one, several, a slice (as `slice` or as text, `"2:5"`), or `"last"`."""

Positions = tuple[int, ...] | str


def positions_of(where: Where | None) -> Positions | None:
    """Return positions in the form that a `Selection` keeps: a tuple of ints, or `"2:5"`."""
    if where is None:
        return None
    if isinstance(where, bool) or not isinstance(where, int | str | slice | Sequence):
        raise ValueError(
            f"{where!r} is not a selection of positions: give an int, several, a slice, '2:5' or "
            "'last'."
        )
    if isinstance(where, int):
        return (where,)
    if isinstance(where, slice):
        parts = [where.start, where.stop, *([] if where.step is None else [where.step])]
        where = ":".join("" if part is None else str(part) for part in parts)
    if where == "last":
        return (-1,)
    if isinstance(where, str):
        slice_of(where)
        return where
    if not len(where) or any(type(p) is bool or not isinstance(p, int) for p in list[Any](where)):
        raise ValueError(f"{where!r} are not positions: give ints, a slice, '2:5' or 'last'.")
    return tuple(int(p) for p in where)


def slice_of(text: str) -> slice:
    """Return the slice that text such as `"2:5"` says; raise `ValueError` for other text."""
    parts = text.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    step = numbers[2] if len(numbers) == 3 else None
    if len(numbers) not in (2, 3) or (step is not None and step < 1):
        raise ValueError(
            f"{text!r} is not a selection of positions. Give an int, several, 'last', or a slice "
            "with a positive step such as '2:5', '-3:' or '::2'."
        )
    return slice(*numbers)


def indices_of(where: Positions, count: int, what: str) -> Tensor:
    """Return the chosen ones of `count` indices, int64 `(n,)`; `IndexError` for one beyond."""
    everything = torch.arange(count)
    if isinstance(where, str):
        return everything[slice_of(where)]
    for index in where:
        if not -count <= index < count:
            raise IndexError(f"There is no {what} {index}; there are {count}.")
    return everything[list(where)]


def is_among(where: Positions, position: Tensor, count: Tensor) -> Tensor:
    """Return which positions `(batch, seq)` are among `where`.

    `count` is how long their rows are for each of them, of the same shape.
    """
    if not isinstance(where, str):
        found = torch.zeros_like(position, dtype=torch.bool)
        for index in where:
            found |= position == (index if index >= 0 else count + index)
        return found
    part = slice_of(where)
    start = torch.zeros_like(count) + (part.start or 0)
    stop = count if part.stop is None else torch.zeros_like(count) + part.stop
    start = torch.where(start < 0, (count + start).clamp(min=0), start)
    stop = torch.where(stop < 0, count + stop, stop)
    return (position >= start) & (position < stop) & ((position - start) % (part.step or 1) == 0)
