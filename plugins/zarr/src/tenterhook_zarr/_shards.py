"""Shards laid down as their rows arrive.

Chunks are appended with their crc32c and the index is written last, which is what zarr's sharding
codec would write, at the speed of the disk and in the memory of one chunk.
"""

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from tenterhook_zarr._layout import ArrayLayout

Bytes = "np.ndarray[Any, np.dtype[np.uint8]]"
ABSENT = 2**64 - 1


def crc32c(content: Any) -> bytes:
    """Return the checksum that follows a chunk."""
    return struct.pack("<I", google_crc32c.value(content))


class ShardWriter:
    """Writes one shard to a file that nobody reads yet."""

    def __init__(self, path: Path, layout: ArrayLayout) -> None:
        self._layout = layout
        self._chunk = np.empty(layout.chunk_rows * layout.row_bytes, dtype=np.uint8)
        self._filled = 0
        self._index: list[int] = []
        self._at = 0
        self._file: BinaryIO = path.open("xb", buffering=0)

    def append(self, content: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Write whole rows."""
        while len(content):
            if not self._filled and len(content) >= len(self._chunk):
                self._write_chunk(content[: len(self._chunk)])
                content = content[len(self._chunk) :]
                continue
            some = content[: len(self._chunk) - self._filled]
            self._chunk[self._filled : self._filled + len(some)] = some
            self._filled += len(some)
            content = content[len(some) :]
            if self._filled == len(self._chunk):
                self._write_chunk(self._chunk)
                self._filled = 0

    def finish(self) -> int:
        """Write what is left and the index, make it durable; return the size of the file."""
        if self._filled:
            fill = np.frombuffer(self._layout.stored.fill_bytes(), dtype=np.uint8)
            rest = len(self._chunk) - self._filled
            self._chunk[self._filled :] = np.tile(fill, rest // len(fill))
            self._write_chunk(self._chunk)
        chunks = self._layout.shard_rows // self._layout.chunk_rows
        self._index += [ABSENT] * (2 * chunks - len(self._index))
        index = struct.pack(f"<{2 * chunks}Q", *self._index)
        self._write(index + crc32c(index))
        os.fsync(self._file.fileno())
        self.close()
        return self._at

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _write_chunk(self, chunk: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        self._index += [self._at, len(chunk) + 4]
        self._write(chunk)
        self._write(crc32c(chunk))

    def _write(self, content: Any) -> None:
        left = memoryview(content)
        while left:
            # A disk that fills up first takes less than it is given, then raises.
            written = self._file.write(left)
            self._at += written
            left = left[written:]
