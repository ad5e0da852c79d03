"""Reading uncompressed shards of a local folder without zarr, every byte checked.

Where a row is follows from the layout: chunks of the same size, one after the other, each with
its crc32c, and the index last. Blocks of rows are read at their places into the memory that is
handed out; rows here and there are copied from a memory map.

When a shard is opened first, its index and the checksums of its chunks are compared with what the
unit's record signed: 4 bytes of each chunk are read, 0.1 ms for a shard of 128 chunks. Until the
file is another one (another inode, size or time), its chunks are then compared with their own.
"""

import contextlib
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
from tenterhook_zarr._inside import open_inside
from tenterhook_zarr._layout import ArrayLayout
from tenterhook_zarr._signs import Signs, check_shard, chunk_ends, index_bytes

BUFFERS = 1024
"""How many pieces of memory the system fills in one call at most."""

MAPS = 1024
"""How many shards of an array are kept mapped; a system lets a process have some 65,000 maps."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


State = tuple[int, int, int, int]
"""Device, inode, size and time of a file."""


def is_plain(layout: ArrayLayout) -> bool:
    """Say whether an array's shards are chunks as they are in memory, with checksums alone."""
    return layout.codec == "none" and sys.byteorder == "little" and hasattr(os, "preadv")


class DirectReader:
    """Reads rows of one array; any thread may use it, and what forks from its process."""

    def __init__(self, folder: Path, signs: Signs, root: str | None) -> None:
        """`root` is the store's folder, which nothing is read outside of."""
        self._folder = folder
        self._signs = signs
        self._root = root
        layout = self._layout = signs.layout
        self._dtype = torch_dtype(layout.dtype)
        self._row_bytes = layout.row_bytes
        self._chunk_bytes = layout.chunk_rows * layout.row_bytes
        self._signed: dict[int, State] = {}
        """Shards that were compared with what was signed, and which files these were."""
        self._maps: dict[int, np.ndarray[Any, Any]] = {}
        """Shards that are mapped, the one that was used last at the end."""
        self._checked: dict[int, np.ndarray[Any, np.dtype[np.bool_]]] = {}

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows that follow each other, `[rows, ...]`; their chunks are checked."""
        size, row_bytes = self._layout.shard_rows, self._row_bytes
        shards = range(start // size, -(-stop // size))
        for shard in shards if len(shards) > 1 else ():
            if shard not in self._signed:  # before room is made for all their rows
                with self._open(shard):
                    pass
        content = np.empty((stop - start) * row_bytes, dtype=np.uint8)
        for shard in shards:
            first, last = max(start, shard * size), min(stop, (shard + 1) * size)
            some = content[(first - start) * row_bytes : (last - start) * row_bytes]
            with self._open(shard) as file:
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

    @contextlib.contextmanager
    def _open(self, shard: int) -> Iterator["_Open"]:
        """Have a shard be open that is the one that was signed; `DamagedStore` for another."""
        known = self._signed.get(shard)
        with _Open(self._path(shard), self._root, known) as file:
            if file.state != known:
                self._check(file, shard)
                self._signed[shard] = file.state
            yield file

    def _check(self, file: "_Open", shard: int) -> None:
        """Compare a shard with what was signed: its length, index and checksums of chunks."""
        size = self._layout.shard_bytes(shard)
        file.check_size(size)
        signed = self._signs.shard(shard)
        if signed.bytes != size:
            raise DamagedStore(file.path, f"{signed.bytes} bytes were committed, not {size}")
        index = np.empty(index_bytes(self._layout) + CRC_BYTES, dtype=np.uint8)
        file.read_into([index], size - len(index))
        ends = chunk_ends(index.tobytes(), self._layout, shard, size, file.path)
        step = self._chunk_bytes + CRC_BYTES
        if ends != list(range(step, step * len(ends) + 1, step)):
            raise DamagedStore(file.path, "its index is not what was written")
        sums = np.empty((len(ends), CRC_BYTES), dtype=np.uint8)
        for total, end in zip(sums, ends, strict=True):
            file.read_into([total], end - CRC_BYTES)
        check_shard(signed, index[:-CRC_BYTES].tobytes(), sums.tobytes(), file.path)
        self._checked.pop(shard, None)

    def _read_chunks(self, file: "_Open", start: int, stop: int, to: Bytes) -> None:
        """Read rows of one shard, with what their chunks have before and after them."""
        rows, row_bytes = self._layout.chunk_rows, self._row_bytes
        first, last = start // rows, -(-stop // rows)
        if len(to) == self._chunk_bytes and first * rows == start:  # as loaders read them
            total = np.empty(CRC_BYTES, dtype=np.uint8)
            file.read_into([to, total], first * (self._chunk_bytes + CRC_BYTES))
            if not _is_right(google_crc32c.value(to), total):
                self._damaged(file.path, first)
            return
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
            with self._open(shard) as file:
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
        with self._open(shard) as file:
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

    def __init__(self, path: str, root: str | None, known: State | None) -> None:
        """`known` is the state of a file that was opened and looked at before."""
        self.path = path
        self.number = -1
        self._root = root
        self._known = known

    def __enter__(self) -> "_Open":
        if self._known is not None and self._open_known():
            return self
        try:
            self.number = open_inside(self.path, self._root)
        except FileNotFoundError:
            raise DamagedStore(self.path, "this file is gone") from None
        self.state = _state(self.number)
        return self

    def _open_known(self) -> bool:
        """Open the file as it is; `False` where it is not the one that was looked at."""
        with contextlib.suppress(OSError):
            self.number = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self.state = _state(self.number)
            if self.state == self._known:
                return True
            os.close(self.number)
        return False

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


def _state(file: int) -> State:
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_right(found: int, written: Bytes) -> bool:
    return struct.pack("<I", found) == written.tobytes()


def _runs(numbers: "np.ndarray[Any, Any]") -> Iterator[tuple[int, slice]]:
    """Return each number of a sorted array and where it is."""
    ends = np.flatnonzero(np.diff(numbers, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        yield int(numbers[start]), slice(start, end)
        start = end
