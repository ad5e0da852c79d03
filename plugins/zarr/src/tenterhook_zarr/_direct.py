"""Reading uncompressed shards of a local folder without zarr, every byte checked.

Where a row is follows from the layout: chunks of the same size, one after the other, each with
its crc32c, and the index last. Blocks of rows are read at their places into the memory that is
handed out; rows here and there are copied from a memory map.
"""

import ctypes
import mmap
import os
import struct
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from tenterhook_store import DamagedStore, torch_dtype
from tenterhook_zarr._checksums import CRC_BYTES
from tenterhook_zarr._layout import INDEX_ENTRY_BYTES, ArrayLayout

BUFFERS = 1024
"""How many pieces of memory the system fills in one call at most."""

MAPS = 1024
"""How many shards of an array are kept mapped; a system lets a process have some 65,000 maps."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def is_plain(metadata: dict[str, Any]) -> bool:
    """Say whether an array's shards are chunks as they are in memory, with checksums alone."""
    if sys.byteorder != "little" or not hasattr(os, "preadv"):
        return False
    (sharding,) = metadata["codecs"]
    inner = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    at_end = sharding["configuration"].get("index_location", "end") == "end"
    return sharding["name"] == "sharding_indexed" and inner == ["bytes", "crc32c"] and at_end


class DirectReader:
    """Reads rows of one array; any thread may use it, and what forks from its process."""

    def __init__(self, folder: Path, layout: ArrayLayout) -> None:
        self._folder = folder
        self._layout = layout
        self._dtype = torch_dtype(layout.dtype)
        self._row_bytes = layout.row_bytes
        self._chunk_bytes = layout.chunk_rows * layout.row_bytes
        self._whole: set[int] = set()
        """Shards whose index was checked."""
        self._maps: dict[int, np.ndarray[Any, Any]] = {}
        """Shards that are mapped, the one that was used last at the end."""
        self._checked: dict[int, np.ndarray[Any, np.dtype[np.bool_]]] = {}

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows that follow each other, `[rows, ...]`; their chunks are checked."""
        size, row_bytes = self._layout.shard_rows, self._row_bytes
        content = np.empty((stop - start) * row_bytes, dtype=np.uint8)
        for shard in range(start // size, -(-stop // size)):
            first, last = max(start, shard * size), min(stop, (shard + 1) * size)
            some = content[(first - start) * row_bytes : (last - start) * row_bytes]
            with _Open(self._path(shard)) as file:
                self._check_index(file, shard)
                self._read_chunks(file, first - shard * size, last - shard * size, some)
        return self._rows(content)

    def take(self, rows: "np.ndarray[Any, np.dtype[np.int64]]", *, check: bool) -> Tensor:
        """Return any rows, in their order; with `check`, each chunk is checked once."""
        content = np.empty(len(rows), dtype=f"V{self._row_bytes}")
        order = np.argsort(rows, kind="stable")
        shards, at = np.divmod(rows[order], self._layout.shard_rows)
        chunks, within = np.divmod(at, self._layout.chunk_rows)
        for shard, some in _runs(shards):
            mapped = self._mapped(int(shard))
            if check:
                self._check_chunks(int(shard), chunks[some])
            content[order[some]] = mapped[chunks[some], within[some]]
        return self._rows(content.view(np.uint8))

    def _rows(self, content: Bytes) -> Tensor:
        width = [] if self._layout.features is None else [self._layout.features]
        if not len(content):
            return torch.empty((0, *width), dtype=self._dtype)
        return torch.from_numpy(content).view(self._dtype).reshape(-1, *width)

    def _path(self, shard: int) -> str:
        return os.path.join(self._folder, self._layout.shard_key(shard))

    def _check_index(self, file: "_Open", shard: int) -> None:
        """Raise `DamagedStore` unless the file is as long as it must be and its index right."""
        size = self._layout.shard_bytes(shard)
        file.check_size(size)
        if shard in self._whole:
            return
        entries = self._layout.shard_rows // self._layout.chunk_rows
        index = np.empty(entries * INDEX_ENTRY_BYTES + CRC_BYTES, dtype=np.uint8)
        file.read_into([index], size - len(index))
        step = self._chunk_bytes + CRC_BYTES
        there = (size - len(index)) // step
        expected = np.full((entries, 2), 2**64 - 1, dtype="<u8")
        expected[:there, 0] = np.arange(there) * step
        expected[:there, 1] = step
        if index[:-CRC_BYTES].tobytes() != expected.tobytes() or not _is_right(
            google_crc32c.value(index[:-CRC_BYTES]), index[-CRC_BYTES:]
        ):
            raise DamagedStore(file.path, "its index is not what was written")
        self._whole.add(shard)

    def _read_chunks(self, file: "_Open", start: int, stop: int, to: Bytes) -> None:
        """Read rows of one shard, with what their chunks have before and after them."""
        rows, row_bytes = self._layout.chunk_rows, self._row_bytes
        first, last = start // rows, -(-stop // rows)
        before = np.empty((start - first * rows) * row_bytes, dtype=np.uint8)
        after = np.empty((last * rows - stop) * row_bytes, dtype=np.uint8)
        sums = np.empty((last - first, CRC_BYTES), dtype=np.uint8)
        pieces: list[list[Bytes]] = []
        at = -len(before)
        for _ in range(first, last):
            pieces.append([to[max(at, 0) : at + self._chunk_bytes]])
            at += self._chunk_bytes
        if len(before):
            pieces[0].insert(0, before)
        if len(after):
            pieces[-1].append(after)
        filled = [part for some, total in zip(pieces, sums, strict=True) for part in (*some, total)]
        file.read_into(filled, first * (self._chunk_bytes + CRC_BYTES))
        for chunk, (some, total) in enumerate(zip(pieces, sums, strict=True), first):
            found = 0
            for part in some:
                found = google_crc32c.extend(found, part)
            if not _is_right(found, total):
                self._damaged(file.path, chunk)

    def _mapped(self, shard: int) -> "np.ndarray[Any, Any]":
        """Return a shard, mapped, as `[chunks, rows of a chunk]` of whole rows."""
        mapped = self._maps.pop(shard, None)
        if mapped is None:
            with _Open(self._path(shard)) as file:
                self._check_index(file, shard)
                memory = _map(file.number, self._layout.shard_bytes(shard))
            rows = min(self._layout.shard_rows, self._layout.rows - shard * self._layout.shard_rows)
            row_bytes = self._row_bytes
            mapped = np.ndarray(
                (self._layout.chunks_in(rows), self._layout.chunk_rows),
                dtype=f"V{row_bytes}",
                buffer=memory,
                strides=(self._chunk_bytes + CRC_BYTES, row_bytes),
            )
        self._maps[shard] = mapped
        # No lock, which a process that forks now would find held for good; others may do the same.
        for oldest in list(self._maps)[:-MAPS]:
            self._maps.pop(oldest, None)
        return mapped

    def _check_chunks(self, shard: int, chunks: "np.ndarray[Any, Any]") -> None:
        """Check the chunks that were not checked since this was opened."""
        checked = self._checked.get(shard)
        if checked is None:
            count = self._layout.shard_rows // self._layout.chunk_rows
            checked = self._checked.setdefault(shard, np.zeros(count, dtype=np.bool_))
        todo = np.unique(chunks[~checked[chunks]])
        if not len(todo):
            return
        room = np.empty(self._chunk_bytes + CRC_BYTES, dtype=np.uint8)
        with _Open(self._path(shard)) as file:
            for chunk in todo.tolist():
                file.read_into([room], chunk * len(room))
                found = google_crc32c.value(room[:-CRC_BYTES])
                if not _is_right(found, room[-CRC_BYTES:]):
                    self._damaged(file.path, chunk)
                checked[chunk] = True

    def _damaged(self, path: str, chunk: int) -> None:
        rows = self._layout.chunk_rows
        which = f"rows {chunk * rows} to {(chunk + 1) * rows} of this file"
        raise DamagedStore(path, f"{which} are not what was written: their checksum is another")


def _map(file: int, size: int) -> Any:
    """Return a file's bytes, mapped for reading here and there, with no file open for it.

    `mmap.mmap` keeps one open as long as the map, and a process may have no more than 1,024 of
    these, or so.
    """
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (ctypes.c_uint8 * size).from_address(address)
    unmapping = weakref.finalize(memory, _LIBC.munmap, address, size)
    unmapping.atexit = False  # threads may read still
    if hasattr(mmap, "MADV_RANDOM"):
        _LIBC.madvise(address, size, mmap.MADV_RANDOM)
    return memory


def _system() -> Any:
    """Return the C library, told what its functions take."""
    if os.name == "nt":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    size, number, address = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
    libc.mmap.argtypes = [address, size, number, number, number, ctypes.c_int64]
    libc.mmap.restype = address
    libc.munmap.argtypes = [address, size]
    libc.madvise.argtypes = [address, size, number]
    return libc


_LIBC = _system()
_FAILED = ctypes.c_void_p(-1).value


class _Open:
    """A file that is open for reading at given places."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = -1

    def __enter__(self) -> "_Open":
        try:
            self.number = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except (FileNotFoundError, NotADirectoryError):
            raise DamagedStore(self.path, "this file is gone") from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)

    def check_size(self, size: int) -> None:
        """Raise `DamagedStore` unless it is so long."""
        found = os.fstat(self.number).st_size
        if found != size:
            raise DamagedStore(self.path, f"this file has {found} bytes and should have {size}")

    def read_into(self, buffers: Sequence[Bytes], at: int) -> None:
        """Fill the buffers, one after the other, from a place in the file on."""
        waiting = [buffer.data for buffer in buffers]
        while waiting:
            try:
                got = os.preadv(self.number, waiting[:BUFFERS], at)
            except OSError as error:
                reason = f"this file cannot be read: {error.strerror}"
                raise DamagedStore(self.path, reason) from error
            if not got:
                raise DamagedStore(self.path, f"this file ends at byte {at}, before its rows do")
            at += got
            done = 0
            while done < len(waiting) and got >= len(waiting[done]):
                got -= len(waiting[done])
                done += 1
            waiting = waiting[done:]
            if got:
                waiting[0] = waiting[0][got:]


def _is_right(found: int, written: Bytes) -> bool:
    return struct.pack("<I", found) == written.tobytes()


def _runs(numbers: "np.ndarray[Any, Any]") -> Iterator[tuple[int, slice]]:
    """Return each number of a sorted array and where it is."""
    ends = np.flatnonzero(np.diff(numbers, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        yield int(numbers[start]), slice(start, end)
        start = end
