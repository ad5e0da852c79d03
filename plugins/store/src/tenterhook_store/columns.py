"""The arrays of a run that are read together: the layers of a batch, and the tokens beside them.

It knows which arrays, and hands out aligned rows of them. Which rows, and in which order, is up to
loaders and data sets.
"""

import importlib.util
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from tenterhook_store.errors import BadSetting
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import RowRanges
from tenterhook_store.rows import Rows, as_bytes

Also = Literal["tokens", "spans", "documents", "positions", "rows"]
"""What can be had beside the layers: token ids, their characters in the document, the document and
the position in it of each row, and the number of the row."""

Batch = Any
"""Rows of one layer, a `Tensor`; or of several arrays by name, `dict[str, Tensor]`."""

Kind = tuple[torch.dtype, tuple[int, ...]]
"""Of an array: its dtype, and the shape of a row."""

_HAS_NUMPY = importlib.util.find_spec("numpy") is not None

_WIDE = (torch.int64, torch.int32, torch.int16, torch.uint8)


class Columns:
    """Some layers of a part of a run, and what else is asked for.

    Its rows go by their places in the part, from 0.
    """

    def __init__(
        self,
        run: Readable,
        layers: str | int | Sequence[str | int],
        also: Sequence[Also],
        part: RowRanges,
    ) -> None:
        """Raises `NotCaptured` for a layer that the run has not, `BadSetting`."""
        self.is_one = isinstance(layers, str | int) and not also
        asked = [layers] if isinstance(layers, str | int) else list(layers)
        if not asked:
            raise BadSetting("layers", layers, "the name of a layer, or a list of names")
        if isinstance(also, str) or not set(also) <= set(get_args(Also)):
            raise BadSetting("also", also, f"a list of some of {', '.join(get_args(Also))}")
        self.names = [str(layer) for layer in asked] + list(also)
        if len(set(self.names)) < len(self.names):
            raise BadSetting("layers", layers, f"each once, and none of {list(also)}")
        numbers = {
            "tokens": run.tokens,
            "spans": run.spans if "spans" in also else None,
            "documents": run.documents.index,
            "positions": run.documents.position,
            "rows": None,
        }
        self._columns: list[Rows | None] = [run[layer] for layer in asked]
        self._columns += [numbers[name] for name in also]
        self._part = part

    def slice(self, start: int, stop: int) -> list[Tensor]:
        """Read the rows from one place to another, of each array, `[rows, ...]`."""
        stretches = list(self._part.stretches(start, stop))
        return [_joined(rows, stretches) for rows in self._columns]

    def take(self, places: Tensor, *, check: bool) -> list[Tensor]:
        """Read the rows at any places, int64 `[rows]`, of each array; in their order."""
        some = self._part.numbers(places)
        return [
            some.clone() if rows is None else rows.take(some, check=check) for rows in self._columns
        ]

    def batch(self, tensors: list[Tensor]) -> Batch:
        """Return them as they are handed out."""
        return tensors[0] if self.is_one else dict(zip(self.names, tensors, strict=True))

    def room(self, rows: int) -> "Room":
        """Return memory for so many rows of each array."""
        return Room(rows, self.kinds)

    @property
    def kinds(self) -> "list[Kind]":
        """The dtype of each array, and the shape of one of its rows."""
        return [
            (torch.int64, ()) if column is None else (column.dtype, column.shape[1:])
            for column in self._columns
        ]


class ReadTogether(Protocol):
    """Arrays whose rows are read together, by their places from 0; `Columns` is one."""

    def slice(self, start: int, stop: int) -> list[Tensor]:
        """Read the rows from one place to another, of each array."""

    def take(self, places: Tensor, *, check: bool) -> list[Tensor]:
        """Read the rows at any places, int64 `[rows]`, of each array; in their order."""

    def batch(self, tensors: list[Tensor]) -> Batch:
        """Return them as they are handed out."""

    def room(self, rows: int) -> "Room":
        """Return memory for so many rows of each array."""


@runtime_checkable
class OpensColumns(Protocol):
    """Something whose rows are loaded, and that is not one run: it says itself what is read."""

    @property
    def id(self) -> str:
        """What messages and states call it."""

    @property
    def ranges(self) -> RowRanges:
        """Which rows it has."""

    def open_columns(self, layers: Any, also: Sequence[Also], part: RowRanges) -> ReadTogether:
        """Return the arrays of a part of it; `BadSetting`, `NotCaptured`."""


class Room:
    """Memory for rows of several arrays, written and read at any places."""

    def __init__(self, rows: int, kinds: "Sequence[Kind]") -> None:
        self._kinds = kinds
        self._memory = [_widest(_empty((rows, *shape), dtype)) for dtype, shape in kinds]

    def write(self, places: Tensor, tensors: Sequence[Tensor]) -> None:
        """Write the rows of each array to places, int64 `[rows]`; each place at most once."""
        for memory, rows in zip(self._memory, tensors, strict=True):
            if _HAS_NUMPY:  # it copies a row as a piece of memory, in 0.65 of the time
                _whole_rows(memory)[places.numpy()] = _whole_rows(rows)
            else:
                memory.index_copy_(0, places, _widest(rows))

    def take(self, places: Tensor, *, pinned: bool = False) -> list[Tensor]:
        """Return the rows of each array at places, int64 `[rows]`, in memory of their own."""
        found = []
        for memory, (dtype, shape) in zip(self._memory, self._kinds, strict=True):
            size = (len(places), memory.shape[1])
            if pinned:
                rows = torch.empty(size, dtype=memory.dtype, pin_memory=True)
            else:
                rows = _empty(size, memory.dtype)
            torch.index_select(memory, 0, places, out=rows)
            found.append(rows.view(dtype).reshape(len(places), *shape))
        return found


def _joined(rows: Rows | None, stretches: Sequence[tuple[int, int]]) -> Tensor:
    """Read stretches of rows, one after the other, or with `None` their numbers."""
    parts = [
        torch.arange(start, stop) if rows is None else rows.block(start, stop)
        for start, stop in stretches
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return memory, contents unknown; in pages of 2 MiB where the system has them.

    numpy asks for those and torch does not: rows are copied here and there in 0.75 of the time.
    """
    if not _HAS_NUMPY:
        return torch.empty(shape, dtype=dtype)
    import numpy as np

    size = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.empty(size, dtype=np.uint8)).view(dtype).reshape(shape)


def _whole_rows(rows: Tensor) -> Any:
    """Return rows as a numpy array `[rows]` of things as large as a row; a view."""
    as_is = as_bytes(rows).numpy()
    return as_is.view(f"V{as_is.shape[1]}").reshape(-1)


def _widest(rows: Tensor) -> Tensor:
    """Return rows as `[rows, n]` of the widest ints that fit; a view.

    Copying a row is moving bytes, whatever its dtype: wide ints move the fastest, and torch copies
    ints by index where it does not copy every dtype.
    """
    as_is = as_bytes(rows)
    fits = (dtype for dtype in _WIDE if as_is.shape[1] % dtype.itemsize == 0)
    return as_is.view(next(fits))
