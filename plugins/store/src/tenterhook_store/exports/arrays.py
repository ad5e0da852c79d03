"""The arrays of a run as an export writes them: a piece at a time, in the memory of a few rows."""

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, Literal, get_args

import attrs
import torch
from torch import Tensor

from tenterhook_store.errors import BadSetting
from tenterhook_store.progress import Progress as Progress
from tenterhook_store.progress import showing
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing
from tenterhook_store.rows import Rows, as_bytes
from tenterhook_store.tensors import dtype_name

PIECE_BYTES = 16 * 2**20
"""About as much is in memory at a time."""

Narrow = Literal["float32", "bits"]
"""What becomes of dtypes that numpy lacks: float32, or unsigned integers of their bits."""


@attrs.frozen(eq=False)
class RunArray:
    """One array of a run, and the file that it becomes."""

    name: str
    file: str
    """Its file's name without an ending: safe on every system."""
    rows: Rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        features = self.rows.shape[1] if self.rows.ndim > 1 else 1
        return features * self.rows.dtype.itemsize


def _arrays(run: Readable, layers: str | int | Sequence[str | int] | None) -> list[RunArray]:
    numbers = {
        "token": run.tokens,
        "document": run.documents.index,
        "position": run.documents.position,
    }
    asked = [layers] if isinstance(layers, str | int) else layers or run.layers
    found = {rows.name: rows for rows in map(run.__getitem__, asked)}
    if taken := sorted({*numbers, "__metadata__"} & found.keys()):
        raise BadSetting("layers", taken[0], "another name: this one means something else there")
    files = [
        f"layer-{number:03d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:100]}"
        for number, name in enumerate(found)
    ]
    return [RunArray(name, name, rows) for name, rows in numbers.items()] + [
        RunArray(name, file, rows) for file, (name, rows) in zip(files, found.items(), strict=True)
    ]


class Pieces:
    """The arrays of a part of a run, read a piece at a time.

    While it is open, as a context, it says how far it is: to `progress`, which is called with the
    rows done, over all arrays, and how many there are; without one to whoever looks.
    """

    def __init__(
        self,
        run: Readable,
        layers: str | int | Sequence[str | int] | None,
        missing: Missing | None,
        progress: Progress | None,
    ) -> None:
        """Raises `NotCaptured`, `BadSetting`, and warns of rows that are left out."""
        self.arrays = _arrays(run, layers)
        """`token`, `document` and `position`, then the layers that were asked for."""
        self.part = run.ranges.part(slice(None), missing)
        """The rows that are written."""
        self._told = ExitStack()
        total = self.part.rows * len(self.arrays)
        self._showing = showing(f"Exporting {run.id}", total, "rows of arrays", progress)
        self._count: Callable[[int], None] = lambda rows: None

    def __enter__(self) -> "Pieces":
        self._count = self._told.enter_context(self._showing)
        return self

    def __exit__(self, *_: object) -> None:
        self._told.close()

    def through(self, array: RunArray, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Read the rows of an array from one place of the part to another, a piece at a time.

        Pieces are `[rows, features]`, or `[rows]` of numbers, in the dtype that was stored.
        """
        for first, last in self.cut(max(1, PIECE_BYTES // array.row_bytes), start, stop):
            yield array.rows[first:last]
            self.count(last - first)

    def cut(self, step: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Return ranges of row numbers, of so many rows at most."""
        stop = self.part.rows if stop is None else stop
        for first, last in self.part.stretches(start, stop):
            for at in range(first, last, step):
                yield at, min(at + step, last)

    def count(self, rows: int) -> None:
        """Count rows of one array as written."""
        self._count(rows)


def check_narrow(bfloat16: str) -> None:
    """Raise `BadSetting` where it says none of what may become of dtypes that numpy lacks."""
    if bfloat16 not in get_args(Narrow):
        raise BadSetting("bfloat16", bfloat16, " or ".join(map(repr, get_args(Narrow))))


def for_numpy(dtype: torch.dtype, narrow: Narrow) -> Callable[[Tensor], Tensor]:
    """Return the conversion of rows of that dtype to one that numpy has."""
    if not dtype_name(dtype).startswith(("bfloat16", "float8")):
        return lambda rows: rows
    if narrow == "float32":
        return lambda rows: rows.to(torch.float32)
    return lambda rows: rows.view(torch.uint16 if dtype.itemsize == 2 else torch.uint8)


def write_rows(file: BinaryIO, rows: Tensor) -> None:
    """Write rows as they are in memory, whatever their dtype and shape."""
    file.write(as_bytes(rows).numpy().data if len(rows) else b"")


def import_needed(module: str, distribution: str | None = None) -> Any:
    """Import what not everybody has; the `ImportError` says how to install it.

    `distribution` is what it comes with, where that has another name.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = distribution or module
        raise ImportError(f"This needs {name}: `pip install {name}`.") from error
