"""Pairs of row numbers, a piece of them at a time: in a temporary file, or in a store."""

import ctypes
import hashlib
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

PIECE = 1 << 18
"""Pairs of a piece: 4 MiB."""

IN_MEMORY = 16
"""How many pieces are remembered."""


@final
class Pairs:
    """Pairs of rows in their order, read anywhere, by any thread."""

    def __init__(self, count: int, load: Callable[[int], Tensor]) -> None:
        """`load` returns a piece by its number, int64 `[PIECE, 2]`, the last one shorter."""
        self._count = count
        # Not under a lock of ours, which a process that forks might find taken for ever.
        self._load = lru_cache(maxsize=IN_MEMORY)(load)

    def __len__(self) -> int:
        return self._count

    @property
    def piece_count(self) -> int:
        """How many pieces there are."""
        return -(-self._count // PIECE)

    def piece(self, number: int) -> Tensor:
        """Return a piece, int64 `[n, 2]`, which nobody may write to."""
        return self._load(number)

    def block(self, start: int, stop: int) -> Tensor:
        """Return pairs that follow each other, int64 `[stop - start, 2]`, in their own memory."""
        parts = [
            self._load(number)[max(start - number * PIECE, 0) : stop - number * PIECE]
            for number in range(start // PIECE, -(-stop // PIECE))
        ]
        return torch.cat(parts) if parts else torch.empty((0, 2), dtype=torch.int64)

    def take(self, places: Tensor) -> Tensor:
        """Return any pairs, by their places, int64 `[n]`, in that order; int64 `[n, 2]`."""
        found = torch.empty((len(places), 2), dtype=torch.int64)
        pieces, order = (places // PIECE).sort(stable=True)
        numbers, counts = torch.unique_consecutive(pieces, return_counts=True)
        for number, some in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):  # type: ignore[no-untyped-call]
            found[some] = self._load(number)[places[some] - number * PIECE]
        return found


def spilled(parts: Iterable[Tensor]) -> Pairs:
    """Write pairs to a file without a name, where the system has temporary files, and read them.

    Raises `OSError` where there is no room.
    """
    file = _File()
    count = 0
    for part in parts:
        file.append(part)
        count += len(part)
    return Pairs(count, file.load)


def digest(piece: Tensor) -> str:
    """Return the sha256 of a piece."""
    return hashlib.sha256(_bytes(piece)).hexdigest()


def in_pieces(pairs: Pairs) -> Iterator[Tensor]:
    """Return the pieces, one after the other."""
    return map(pairs.piece, range(pairs.piece_count))


def _bytes(pairs: Tensor) -> bytes:
    pairs = pairs.contiguous()
    return ctypes.string_at(pairs.data_ptr(), pairs.numel() * pairs.itemsize)


class _File:
    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()

    def append(self, part: Tensor) -> None:
        left = memoryview(_bytes(part))
        try:
            while left:  # a disk that fills up first takes less than it is given
                left = left[self._file.write(left) :]
        except OSError as error:
            reason = f"{error.strerror}; set TMPDIR to a folder with more room"
            raise OSError(error.errno, reason, tempfile.gettempdir()) from error

    def load(self, number: int) -> Tensor:
        content = bytearray(self._bytes(number * PIECE * 16, PIECE * 16))
        return torch.frombuffer(content, dtype=torch.int64).reshape(-1, 2)

    def _bytes(self, at: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # nor do processes that fork share a place in the file
            return os.pread(self._file.fileno(), size, at)
        with self._lock:
            self._file.seek(at)
            return self._file.read(size) or b""
