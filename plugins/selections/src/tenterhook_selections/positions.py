"""Positions along an axis, as users write them: `3`, `[0, -1]`, `"2:5"`, `"last"`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Where = int | str | slice | Sequence[int]
"""Positions: one, several, a slice (as `slice` or as text, `"2:5"`), or `"last"`."""

Tokens = Where | Sequence[Sequence[int]] | Tensor
"""Positions of tokens, for all rows or for each; or a bool mask `(batch, seq)`."""

Positions = tuple[int, ...] | str
InRows = tuple[tuple[int, ...], ...] | tuple[tuple[bool, ...], ...]
"""Positions for each row; or, as bools, a mask of the columns that the model was given."""


def in_rows(where: Any) -> InRows | None:
    """Return positions for each row, or a mask `(batch, seq)`, as a `Selection` keeps them.

    `None` for what is neither: a bool tensor of two axes, or a list of lists of ints. Raises
    `ValueError` for a tensor of another form.
    """
    if isinstance(where, Tensor):
        if where.dtype != torch.bool or where.ndim != 2:
            raise ValueError(
                f"A selection of tokens by a tensor takes a bool mask (batch, seq), not "
                f"{where.dtype} of shape {tuple(where.shape)}."
            )
        return tuple(tuple(row) for row in where.tolist())
    if isinstance(where, str) or not isinstance(where, Sequence) or not len(where):
        return None
    rows = [row for row in where if isinstance(row, Sequence) and not isinstance(row, str)]
    if len(rows) != len(where):
        return None
    kinds = {type(at) for row in rows for at in row}
    if kinds not in ({int}, {bool}, set()):
        raise ValueError(f"{where!r} are not positions for each row: give lists of ints, or bools.")
    return tuple(tuple(row) for row in rows)


def is_in_rows(where: InRows, position: Tensor, known: Tensor, copies: int, first: int) -> Tensor:
    """Return which tokens `(batch, seq)` are among those of their rows.

    `copies` rows of the forward stand for one of `where`; `first` is the column of the first token.
    Raises `ValueError` where it is for another batch.
    """
    batch, seq = position.shape
    if len(where) * copies != batch:
        raise ValueError(
            f"Tokens are selected in {len(where)} rows, and the model was given {batch // copies}."
        )
    found = torch.zeros(batch, seq, dtype=torch.bool)
    is_mask = any(type(at) is bool for row in where for at in row)
    if is_mask and first == 0 and seq < len(where[0]):
        raise ValueError(
            f"Tokens are selected by a mask of {len(where[0])} columns, and the model was given "
            f"{seq}."
        )
    for row in range(batch):
        chosen = where[row // copies]
        if is_mask:
            mask = torch.tensor(chosen, dtype=torch.bool)[first : first + seq]
            found[row, : len(mask)] = mask
        for at in () if is_mask else chosen:
            found[row] |= position[row] == (at if at >= 0 else known[row] + at)
    return found


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
        where = (where,)
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
    if far := [p for p in where if not -_FAR <= int(p) < _FAR]:
        raise ValueError(f"{far[0]} is no position: it is beyond any text.")
    return tuple(int(p) for p in where)


_FAR = 2**62


def slice_of(text: str) -> slice:
    """Return the slice that text such as `"2:5"` says; raise `ValueError` for other text.

    An end beyond any text is one that no text reaches.
    """
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
    return slice(*(each if each is None else max(-_FAR, min(each, _FAR)) for each in numbers))


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
