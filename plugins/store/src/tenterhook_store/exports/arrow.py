"""The arrays of a run as columns of arrow, which several formats are written from."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tenterhook_store.errors import BadSetting
from tenterhook_store.exports.arrays import Pieces, RunArray, for_numpy, import_needed


class ArrowColumn:
    """An array as a column of arrow: numbers, or for a layer lists of as many as it has features.

    Arrow has no bfloat16 and no float8: these become float32, which holds each of their values.
    """

    def __init__(self, array: RunArray, pyarrow: Any) -> None:
        """Raises `BadSetting` for complex numbers, which arrow has not."""
        self.name = array.name
        self.width = array.rows.shape[1] if array.rows.ndim > 1 else None
        self._rows = array.rows
        self._pyarrow = pyarrow
        self._convert = for_numpy(array.rows.dtype, "float32")
        empty = self._convert(torch.empty(0, dtype=array.rows.dtype))
        if empty.is_complex():
            raise BadSetting("layers", array.name, "of real numbers: arrow has no complex ones")
        self.number = pyarrow.from_numpy_dtype(empty.numpy().dtype)
        """The type of one number."""
        self.type = self.number if self.width is None else pyarrow.list_(self.number, self.width)

    def read(self, start: int, stop: int) -> Any:
        """Return rows of these numbers as an array of arrow."""
        values = self._pyarrow.array(self.values(start, stop).flatten())
        if self.width is None:
            return values
        return self._pyarrow.FixedSizeListArray.from_arrays(values, self.width)

    def values(self, start: int, stop: int) -> Any:
        """Return rows of these numbers as numpy has them, `[rows, features]` or `[rows]`."""
        return self._convert(self._rows[start:stop]).numpy()


def arrow_columns(pieces: Pieces, pyarrow: Any) -> list[ArrowColumn]:
    """Return a column for each array; `ImportError` without numpy."""
    import_needed("numpy")
    return [ArrowColumn(each, pyarrow) for each in pieces.arrays]


def arrow_schema(columns: Sequence[ArrowColumn], pyarrow: Any) -> Any:
    """Return the schema of a table of them."""
    return pyarrow.schema([pyarrow.field(each.name, each.type) for each in columns])


def arrow_batches(
    pieces: Pieces, columns: Sequence[ArrowColumn], rows: int, pyarrow: Any
) -> Iterator[Any]:
    """Read the rows, so many at a time, as record batches; says how far it is."""
    names = [column.name for column in columns]
    for start, stop in pieces.cut(rows):
        read = [column.read(start, stop) for column in columns]
        yield pyarrow.record_batch(read, names=names)
        pieces.count((stop - start) * len(columns))
