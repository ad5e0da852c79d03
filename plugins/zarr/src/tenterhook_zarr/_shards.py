"""Shards laid down as their rows arrive.

Chunks are appended with their crc32c and the index is written last, which is what zarr's sharding
codec would write, at the speed of the disk and in the memory of one chunk. Where the system can,
the room of a shard is taken before its first row, which writes faster than a file that grows, and
the disk is told to write while more rows come, so that little is left to wait for at the end.
"""

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tenterhook_store import DamagedStore
from tenterhook_zarr._checksums import CRC_BYTES, checksum, crc32c
from tenterhook_zarr._codecs import encoder
from tenterhook_zarr._files import start_writing, take_room
from tenterhook_zarr._layout import INDEX_ENTRY_BYTES, ArrayLayout
from tenterhook_zarr._signs import ABSENT

Bytes = "np.ndarray[Any, np.dtype[np.uint8]]"
STARTED_AT_ONCE = 16 * 2**20
"""Bytes of a shard after which the disk is told to begin with them."""


def shard_facts(content: bytes, layout: ArrayLayout, shard: int, path: str) -> dict[str, Any]:
    """Return the size and the checksums of a shard, as `ShardWriter.finish` does.

    Reads every checksum in it; `DamagedStore` where one is not that of its bytes.
    """
    chunks = layout.shard_rows // layout.chunk_rows
    at = len(content) - chunks * INDEX_ENTRY_BYTES - CRC_BYTES
    index = content[max(at, 0) : -CRC_BYTES]
    if at < 0 or crc32c(index) != content[-CRC_BYTES:]:
        raise DamagedStore(path, "its index of chunks is not what was written")
    entries = list(struct.iter_unpack("<2Q", index))
    checksums = bytearray()
    end = 0
    for chunk in range(layout.chunks_in(layout.rows_in(shard))):
        start, size = entries[chunk]
        end = start + size
        found = content[end - CRC_BYTES : end]
        if end > at or crc32c(content[start : end - CRC_BYTES]) != found:
            first = shard * layout.shard_rows + chunk * layout.chunk_rows
            last = min(first + layout.chunk_rows, layout.rows)
            raise DamagedStore(path, f"rows {first} to {last} are not what was written")
        checksums += found
    if end != at:
        raise DamagedStore(path, f"it has {at} bytes of chunks and should have {end}")
    return _facts(len(content), bytes(checksums), index)


def _facts(size: int, checksums: bytes, index: bytes) -> dict[str, Any]:
    """Return what a commit record says of a shard."""
    return {"bytes": size, "crc32c": checksum(checksums + index), "chunks": checksums.hex()}


class ShardWriter:
    """Writes one shard to a file that nobody reads yet."""

    def __init__(self, path: Path, layout: ArrayLayout, shard: int) -> None:
        self._layout = layout
        self._started = 0
        self._chunk = np.empty(layout.chunk_rows * layout.row_bytes, dtype=np.uint8)
        self._encode = encoder(layout.codec, layout.stored.numpy)
        self._filled = 0
        self._index: list[int] = []
        self._checksums = bytearray()
        self._at = 0
        self._file: BinaryIO = path.open("xb", buffering=0)
        if self._encode is None:
            take_room(self._file.fileno(), layout.shard_bytes(shard))

    def append(self, content: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Write whole rows, as bytes: uint8 `[rows * row_bytes]`."""
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

    def finish(self) -> dict[str, Any]:
        """Write what is left and the index, make it durable; say its size and checksums.

        `crc32c` is the checksum of the chunks' checksums, in order, and of the index.
        """
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
        return _facts(self._at, bytes(self._checksums), index)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _write_chunk(self, chunk: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        content = chunk if self._encode is None else self._encode(chunk)
        self._index += [self._at, len(content) + CRC_BYTES]
        self._write(content)
        self._checksums += crc32c(content)
        self._write(self._checksums[-4:])
        self._start_writing()

    def _start_writing(self) -> None:
        """Have the disk begin with what it was not told of, once that is worth it."""
        new = self._at - self._started
        if new >= STARTED_AT_ONCE:
            start_writing(self._file.fileno(), self._started, new)
            self._started = self._at

    def _write(self, content: Any) -> None:
        left = memoryview(content)
        while left:
            # A disk that fills up first takes less than it is given, then raises.
            written = self._file.write(left)
            self._at += written
            left = left[written:]
