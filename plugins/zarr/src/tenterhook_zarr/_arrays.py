"""Reading arrays through zarr, with what zarr would not notice checked."""

from pathlib import Path
from typing import Any

import zarr
from torch import Tensor
from zarr.storage import LocalStore

from tenterhook.store import DamagedStore
from tenterhook_zarr._dtypes import from_numpy
from tenterhook_zarr._layout import ArrayLayout


class ArrayReader:
    """Reads rows of one array, whose file sizes are known."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / "zarr.json"
        self.layout = ArrayLayout.read(read_file(path), str(path))
        self._array = open_array(folder)

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows that are committed; `DamagedStore` where their shards are not what they
        were."""
        size = self.layout.shard_rows
        for shard in range(start // size, -(-stop // size)):
            # zarr would read a file that is missing as the fill value.
            path = self._folder / self.layout.shard_key(shard)
            check_size(path, self.layout.shard_bytes(shard))
        try:
            return from_numpy(self._array[start:stop], self.layout.dtype)
        except ValueError as error:
            reason = f"rows {start} to {stop} cannot be read ({error})"
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
