"""Reading arrays, with what zarr would not notice checked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from torch import Tensor
from zarr.storage import LocalStore

from tenterhook.store import DamagedStore
from tenterhook_zarr._direct import DirectReader, is_plain
from tenterhook_zarr._dtypes import from_numpy
from tenterhook_zarr._layout import ArrayLayout


class ArrayReader:
    """Reads rows of one array, whose file sizes are known: itself where it can, or by zarr."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / "zarr.json"
        metadata = read_file(path)
        self.layout = ArrayLayout.read(metadata, str(path))
        self._direct: DirectReader | None = None
        if is_plain(json.loads(metadata)):
            self._direct = DirectReader(folder, self.layout)
        else:
            self._array = open_array(folder)

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows that are committed and follow each other.

        Raises `DamagedStore` where their shards are not what they were.
        """
        if self._direct is not None:
            return self._direct.read(start, stop)
        return self._by_zarr(np.arange(start, stop), slice(start, stop))

    def take(self, rows: Tensor, *, check: bool = True) -> Tensor:
        """Return any rows that are committed, in their order; checked once, or not at all."""
        numbers = rows.numpy()
        if self._direct is not None:
            return self._direct.take(numbers, check=check)
        return self._by_zarr(numbers, numbers)

    def _by_zarr(self, rows: "np.ndarray[Any, Any]", key: Any) -> Tensor:
        for shard in np.unique(rows // self.layout.shard_rows).tolist():
            # zarr would read a file that is missing as the fill value.
            path = self._folder / self.layout.shard_key(shard)
            check_size(path, self.layout.shard_bytes(shard))
        try:
            return from_numpy(self._array.oindex[key], self.layout.dtype)
        except ValueError as error:
            reason = f"rows {rows.min()} to {rows.max() + 1} cannot be read ({error})"
            raise DamagedStore(str(self._folder), reason) from error


def open_array(folder: Path) -> Any:
    """Open a zarr array for reading."""
    return zarr.open_array(store=LocalStore(folder, read_only=True), mode="r", zarr_format=3)


def read_file(path: Path) -> bytes:
    """Return the content of a file that must be there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedStore(str(path), "this file is gone") from None


def check_size(path: Path, size: int) -> None:
    """Raise `DamagedStore` unless the file is there and as long as it must be."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise DamagedStore(str(path), "this file is gone") from None
    if found != size:
        raise DamagedStore(str(path), f"this file has {found} bytes and should have {size}")
