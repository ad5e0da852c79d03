"""An array of rows that is read as it is indexed.

It turns any index into calls of two functions, which a store brings: one reads rows that follow
each other, and the other, if there is one, any rows. Checking the index is `row_index`'s, and
which rows are there is `row_ranges`'.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from tenterhook.html import table
from tenterhook_store.row_index import any_rows, row_index
from tenterhook_store.row_ranges import RowRanges
from tenterhook_store.tensors import dtype_name

if TYPE_CHECKING:
    import numpy as np

BLOCK = 8192
"""Rows read at once: by iterating, and of a slice with a step, which leaves most of them out."""

PIECE = 256
"""Rows read at once to find some of them in, in a store that cannot do better."""


@final
class Rows:
    """The rows of a layer, `[rows, features]`, or a number per row, `[rows]`.

    They are indexed as a numpy array is: `rows[3]`, `rows[10:20]`, `rows[::2]`, `rows[mask]`,
    `rows[[5, 2, 2]]`, `rows[10:20, :64]`. Each reads from the store and returns a tensor on the
    CPU, in the dtype that was stored, bit for bit, in memory of the caller's own.

    `torch.as_tensor(rows)` and `numpy.asarray(rows)` read all of them.

    Of a run that lacks units these are its first rows, up to the first that is missing; those
    after it are read by their own numbers, as `rows[a:b]`, `rows[[a, b]]` or a mask of all rows
    planned.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        read: Callable[[int, int], Tensor],
        take: Callable[[Tensor, bool], Tensor] | None = None,
        ranges: RowRanges | None = None,
    ) -> None:
        """Make an array that reads rows `start` to `stop` by `read(start, stop)`.

        `take(rows, check)` returns any rows, int64 `[n]`, in the order asked for; without it they
        are picked from what `read` returns. `ranges` are the rows that are there, `shape[0]` of
        them unless given; neither function is asked for others.
        """
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._read = read
        self._take = take
        self._ranges = RowRanges.whole(shape[0]) if ranges is None else ranges

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """2 for a layer, 1 for a number per row."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all its rows."""
        size = self.dtype.itemsize
        for axis in self.shape:
            size *= axis
        return size

    def __getitem__(self, key: Any) -> Tensor:
        """Read rows: one (an axis less), a slice of them, or those of a mask, list or array.

        `[rows, features]`, or `[rows]` of numbers, on the CPU, in `dtype`, in memory of its own.
        A second index, an int or a slice, picks features. A slice is cut to what is there, as in
        a list. Raises `RowOutOfRange` (`MissingRows` for a row of a unit that is missing) and
        `WrongIndex` (each an `IndexError`), `TypeError` for what is no index, and `DamagedStore`
        where what is read is not what was written.
        """
        index = row_index(key, self.shape, self._ranges, self.name)
        if isinstance(index.rows, range):
            return self._slice(index.rows, index.features)
        if isinstance(index.rows, int):
            return _some(self._read(index.rows, index.rows + 1), index.features)[0]
        return _some(self._some_rows(index.rows, check=True), index.features)

    def block(self, start: int, stop: int) -> Tensor:
        """Read rows that follow each other and are there: `rows[start:stop]`, and nothing checked.

        What stands in brackets may be much, and telling what takes as long as reading 100 rows.
        """
        return self._read(start, stop)

    def take(self, rows: Any, *, check: bool = True) -> Tensor:
        """Read any rows, in any order: a mask, a list or an array of ints, of any shape.

        Returns `[*shape, features]`, or `[*shape]` of numbers. A store in files checks what it
        reads the first time that this process touches it; with `check=False` not at all, which
        spares reading what stands around a row.
        """
        found = any_rows(rows, self._ranges, self.name)
        self._ranges.check(found)
        return self._some_rows(found, check=check)

    def _some_rows(self, found: Tensor, *, check: bool) -> Tensor:
        flat = found.flatten()
        if not len(flat):
            taken = torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        elif self._take is None:
            taken = self._pick(flat)
        else:
            taken = self._take(flat, check)
        return taken.reshape(*found.shape, *self.shape[1:])

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self), BLOCK):
            yield from self[start : min(start + BLOCK, len(self))]

    def numpy(self, rows: Any = slice(None), *, dtype: Any = None) -> "np.ndarray[Any, Any]":
        """Read rows, by any index, as a numpy array, in the dtype that was stored, or in `dtype`.

        Of the shape that `rows[...]` gives. bfloat16 becomes `ml_dtypes.bfloat16`, bit for bit;
        `ImportError` without `ml_dtypes`. Raises as `rows[...]` does.
        """
        found = _to_numpy(self[rows])
        return found if dtype is None else found.astype(dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray[Any, Any]":
        if copy is False:
            raise ValueError("Rows are read from the store, which always copies.")
        return self.numpy(dtype=dtype)

    # What `torch.as_tensor(rows)` asks for: without it torch takes rows for a list of numbers.
    def __dlpack__(self, **settings: Any) -> Any:
        return self[:].__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return torch.empty(0).__dlpack_device__()

    def __repr__(self) -> str:
        return f"Rows({self.name!r}, shape={self.shape}, dtype={dtype_name(self.dtype)})"

    def _repr_html_(self) -> str:
        shape, dtype = " x ".join(f"{each:,}" for each in self.shape), dtype_name(self.dtype)
        head, facts = ("rows", "shape", "dtype", "bytes"), (self.name, shape, dtype)
        return table([head, (*facts, f"{self.nbytes:,}")])

    def _slice(self, rows: range, features: int | slice | None) -> Tensor:
        if not rows:
            return _some(torch.empty((0, *self.shape[1:]), dtype=self.dtype), features)
        if rows.step < 0:
            # torch slices forward alone, and flips the bytes of every dtype.
            forward = self._slice(rows[::-1], features)
            return as_bytes(forward).flip(0).view(self.dtype).reshape(forward.shape)
        if rows.step == 1 and features is None:
            return self._read(rows.start, rows.stop)
        # Far apart, or with rows between that are missing: one by one reads less.
        if rows.step > PIECE or self._ranges.next_missing(rows.start) <= rows[-1]:
            return _some(self.take(torch.arange(rows.start, rows.stop, rows.step)), features)
        parts = []
        per_block = max(1, BLOCK // rows.step)
        for at in range(0, len(rows), per_block):
            some = rows[at : at + per_block]
            parts.append(_some(self._read(some[0], some[-1] + 1)[:: rows.step], features))
        return torch.cat(parts)

    def _pick(self, rows: Tensor) -> Tensor:
        """Read the pieces that the rows are in, each once."""
        found = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        to = as_bytes(found)
        pieces = rows // PIECE
        order = pieces.argsort(stable=True)
        numbers, counts = torch.unique(pieces, return_counts=True)
        for number, some in zip(numbers.tolist(), torch.split(order, counts.tolist()), strict=True):
            for part in self._ranges.within(number * PIECE, (number + 1) * PIECE):
                here = some[(rows[some] >= part.start) & (rows[some] < part.stop)]
                if len(here):
                    piece = as_bytes(self._read(part.start, part.stop))
                    to[here] = piece[rows[here] - part.start]
        return found


def as_bytes(rows: Tensor) -> Tensor:
    """Return rows as their bytes, uint8 `[rows, bytes]`, a view: torch moves these of any dtype."""
    return rows.contiguous().reshape(len(rows), -1).view(torch.uint8)


def _some(rows: Tensor, features: int | slice | None) -> Tensor:
    """Return some features, in memory of their own."""
    if features is None:
        return rows
    if isinstance(features, slice) and (features.step or 1) < 0:  # which torch does not take
        width = rows.shape[-1]
        return rows[..., list(range(*features.indices(width)))]
    return rows[..., features].clone()


def _to_numpy(tensor: Tensor) -> "np.ndarray[Any, Any]":
    if dtype_name(tensor.dtype).startswith(("bfloat16", "float8", "float4")):
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(
                f"numpy has no {dtype_name(tensor.dtype)}. `pip install ml_dtypes`, or convert "
                "with torch: rows[a:b].float().numpy()."
            ) from error
        bits = tensor.view(torch.uint16 if tensor.dtype.itemsize == 2 else torch.uint8)
        return bits.numpy().view(getattr(ml_dtypes, dtype_name(tensor.dtype)))
    return tensor.numpy()
