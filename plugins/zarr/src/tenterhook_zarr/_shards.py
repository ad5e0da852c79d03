"""Shards laid down as their rows arrive.

Chunks are appended with their crc32c and the index is written last, which is what zarr's sharding
codec would write, at the speed of the disk and in the memory of one chunk. The disk is told to
write while more rows come, so that little is left to wait for at the end.
"""

import os
import struct
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tenterhook.store import DamagedStore
from tenterhook_zarr._checksums import CRC_BYTES, checksum, crc32c
from tenterhook_zarr._codecs import encoder
from tenterhook_zarr._layout import INDEX_ENTRY_BYTES, ArrayLayout

Bytes = "np.ndarray[Any, np.dtype[np.uint8]]"
ABSENT = 2**64 - 1
FLUSHED_AT_ONCE = 16 * 2**20
"""Bytes of a shard after which the disk is told to write them."""

_flush = getattr(os, "fdatasync", os.fsync)


def shard_facts(content: bytes, layout: ArrayLayout, shard: int, path: str) -> dict[str, Any]:
    """Return the size and the checksum of a shard, as `ShardWriter.finish` does.

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
    return {"bytes": len(content), "crc32c": checksum(bytes(checksums) + index)}


class ShardWriter:
    """Writes one shard to a file that nobody reads yet."""

    def __init__(self, path: Path, layout: ArrayLayout, flusher: Executor) -> None:
        """`flusher` has the disk write what was handed to it; see `close`."""
        self._layout = layout
        self._flusher = flusher
        self._flushing: Future[None] | None = None
        self._flushed = 0
        self._chunk = np.empty(layout.chunk_rows * layout.row_bytes, dtype=np.uint8)
        self._encode = encoder(layout.codec, layout.stored.numpy)
        self._filled = 0
        self._index: list[int] = []
        self._checksums = bytearray()
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

    def finish(self) -> dict[str, Any]:
        """Write what is left and the index, make it durable; say its size and checksum.

        The checksum is that of the chunks' checksums, in order, and of the index.
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
        if self._flushing is not None:
            self._flushing.result()  # an error is told to the first who asks, and to nobody else
        os.fsync(self._file.fileno())
        self.close()
        return {"bytes": self._at, "crc32c": checksum(bytes(self._checksums) + index)}

    def close(self) -> None:
        """Close the file, finished or not; waits for the flusher to let go of it."""
        if self._flushing is not None:
            wait([self._flushing])
        self._file.close()

    def _write_chunk(self, chunk: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        content = chunk if self._encode is None else self._encode(chunk)
        self._index += [self._at, len(content) + CRC_BYTES]
        self._write(content)
        self._checksums += crc32c(content)
        self._write(self._checksums[-4:])
        self._flush()

    def _flush(self) -> None:
        """Have the disk write what there is, once that is worth it and it has done the rest."""
        if self._at - self._flushed < FLUSHED_AT_ONCE:
            return
        if self._flushing is not None:
            if not self._flushing.done():
                return
            self._flushing.result()
        self._flushed = self._at
        self._flushing = self._flusher.submit(_flush, self._file.fileno())

    def _write(self, content: Any) -> None:
        left = memoryview(content)
        while left:
            # A disk that fills up first takes less than it is given, then raises.
            written = self._file.write(left)
            self._at += written
            left = left[written:]
