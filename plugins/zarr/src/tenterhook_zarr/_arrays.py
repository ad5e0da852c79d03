"""Reading arrays, ourselves or through zarr."""

from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from tenterhook_store import DamagedStore
from tenterhook_zarr._backend import Files
from tenterhook_zarr._direct import DirectReader, is_plain
from tenterhook_zarr._dtypes import from_numpy
from tenterhook_zarr._signs import Signs


class ArrayReader:
    """Reads rows of one array: itself where it can, or by zarr."""

    def __init__(self, files: Files, folder: PurePath, signs: Signs) -> None:
        self._files = files
        self._folder = folder
        self._signs = signs
        self._direct: DirectReader | None = None
        if files.is_local and is_plain(signs.layout):
            self._direct = DirectReader(Path(folder), signs, files.root)
        else:
            self._array = files.open_array(folder, signs)

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows that are committed and follow each other: `[rows, features]`, or `[rows]`.

        In the array's torch dtype, on the CPU, in memory of their own. Raises `DamagedStore` where
        their shards are not what they were.
        """
        if self._direct is not None:
            return self._direct.read(start, stop)
        for shard in range(
            start // self._signs.layout.shard_rows, -(-stop // self._signs.layout.shard_rows)
        ):
            self._signs.shard(shard)  # before room is made for all their rows
        return self._by_zarr(slice(start, stop), f"{start} to {stop}")

    def take(self, rows: Tensor, *, check: bool = True) -> Tensor:
        """Return any rows that are committed, int64 `[rows]`, in their order; otherwise as `read`.

        What is read is checked once in this process or, without `check`, not at all.
        """
        numbers = rows.numpy()
        if self._direct is not None:
            return self._direct.take(numbers, check=check)
        if not len(numbers):
            return self.read(0, 0)
        return self._by_zarr(numbers, f"{numbers.min()} to {numbers.max() + 1}")

    def _by_zarr(self, key: Any, rows: str) -> Tensor:
        try:
            return from_numpy(self._array.oindex[key], self._signs.layout.dtype)
        except FileNotFoundError as error:
            shard = f"/{error}".rpartition("/c/")[2]
            path = self._files.show(self._folder / "c" / shard)
            raise DamagedStore(path, "this file is gone") from error
        except (ValueError, RuntimeError) as error:
            if isinstance(error, DamagedStore):
                raise
            reason = f"rows {rows} cannot be read ({error})"
            raise DamagedStore(self._files.show(self._folder), reason) from error
