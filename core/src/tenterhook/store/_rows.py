"""An array of rows that is read as it is indexed."""

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex, final

import torch
from torch import Tensor

from tenterhook.store._dtypes import dtype_name
from tenterhook.store._errors import RowOutOfRange

if TYPE_CHECKING:
    import numpy as np

BLOCK = 8192
"""Rows read at once where more is asked for than is kept."""


@final
class Rows:
    """The rows of a layer, `[rows, features]`, or a number per row, `[rows]`.

    `rows[3]`, `rows[-1]`, `rows[10:20]` and `rows[::2]` read from the store and give a tensor on
    the CPU, in the dtype that was stored, bit for bit, which is the caller's own.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        read: Callable[[int, int], Tensor],
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._read = read

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

    def __getitem__(self, rows: SupportsIndex | slice) -> Tensor:
        """Read one row (an axis less) or a slice of rows.

        Raises `RowOutOfRange` (an `IndexError`); a slice is cut to what is there, as in a list.
        """
        if isinstance(rows, slice):
            return self._slice(range(*rows.indices(len(self))))
        try:
            row = operator.index(rows)
        except TypeError:
            raise TypeError(
                f"Rows are read by an int or a slice, not by a {type(rows).__name__}."
            ) from None
        at = row + len(self) if row < 0 else row
        if not 0 <= at < len(self):
            raise RowOutOfRange(row, len(self), self.name)
        return self._read(at, at + 1)[0]

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self), BLOCK):
            yield from self[start : start + BLOCK]

    def numpy(self, rows: slice = slice(None), *, dtype: Any = None) -> "np.ndarray[Any, Any]":
        """Read rows as a numpy array, in the dtype that was stored, or in `dtype`.

        bfloat16 becomes `ml_dtypes.bfloat16`, bit for bit; `ImportError` without `ml_dtypes`.
        """
        found = _to_numpy(self[rows])
        return found if dtype is None else found.astype(dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray[Any, Any]":
        if copy is False:
            raise ValueError("Rows are read from the store, which always copies.")
        return self.numpy(dtype=dtype)

    def __repr__(self) -> str:
        return f"Rows({self.name!r}, shape={self.shape}, dtype={dtype_name(self.dtype)})"

    def _slice(self, rows: range) -> Tensor:
        if not rows:
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        if rows.step < 0:
            return self._slice(rows[::-1]).flip(0)
        if rows.step == 1:
            return self._read(rows.start, rows.stop)
        parts = []
        per_block = max(1, BLOCK // rows.step)
        for at in range(0, len(rows), per_block):
            some = rows[at : at + per_block]
            parts.append(self._read(some[0], some[-1] + 1)[:: rows.step].clone())
        return torch.cat(parts)


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
