"""Reading arrays, ourselves or through zarr."""

import json
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from torch import Tensor

from tenterhook_store import DamagedStore
from tenterhook_zarr._backend import Files, read_file
from tenterhook_zarr._direct import DirectReader, is_plain
from tenterhook_zarr._dtypes import from_numpy
from tenterhook_zarr._layout import ArrayLayout


class ArrayReader:
    """Reads rows of one array: itself where it can, or by zarr."""

    def __init__(self, files: Files, folder: PurePath) -> None:
        self._files = files
        self._folder = folder
        path = folder / "zarr.json"
        metadata = read_file(files, path)
        self.layout = ArrayLayout.read(metadata, files.show(path))
        self._direct: DirectReader | None = None
        if files.is_local and is_plain(json.loads(metadata)):
            self._direct = DirectReader(Path(folder), self.layout)
        else:
            self._array = files.open_array(folder)

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows that are committed and follow each other: `[rows, features]`, or `[rows]`.

        In the array's torch dtype, on the CPU, in memory of their own. Raises `DamagedStore` where
        their shards are not what they were.
        """
        if self._direct is not None:
            return self._direct.read(start, stop)
        return self._by_zarr(np.arange(start, stop), slice(start, stop))

    def take(self, rows: Tensor, *, check: bool = True) -> Tensor:
        """Return any rows that are committed, int64 `[rows]`, in their order; otherwise as `read`.

        What is read is checked once in this process or, without `check`, not at all.
        """
        numbers = rows.numpy()
        if self._direct is not None:
            return self._direct.take(numbers, check=check)
        return self._by_zarr(numbers, numbers)

    def _by_zarr(self, rows: "np.ndarray[Any, Any]", key: Any) -> Tensor:
        try:
            return from_numpy(self._array.oindex[key], self.layout.dtype)
        except FileNotFoundError as error:
            shard = f"/{error}".rpartition("/c/")[2]
            path = self._files.show(self._folder / "c" / shard)
            raise DamagedStore(path, "this file is gone") from error
        except ValueError as error:
            reason = f"rows {rows.min()} to {rows.max() + 1} cannot be read ({error})"
            raise DamagedStore(self._files.show(self._folder), reason) from error
