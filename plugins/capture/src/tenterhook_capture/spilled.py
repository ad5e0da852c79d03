"""Many whole numbers in the memory of a few: the rest are in a temporary file."""

import os
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Literal, Protocol, final, overload

IN_MEMORY = 1 << 17
"""How many of them are in memory; without more there is no file."""


class NumberColumn(Protocol):
    """Whole numbers that are read anywhere, by any thread, few of them in memory."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[int]: ...

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> "array[int]": ...
    def __getitem__(self, key: int | slice) -> "int | array[int]":
        """Return one number, or an array of a slice of them."""


@final
class Numbers(Sequence[int]):
    """Whole numbers that are added at the end, and read anywhere, by any thread.

    They are in a file that has no name, where the system has temporary files (`TMPDIR`).
    """

    def __init__(self, kind: Literal["i", "q"]) -> None:
        """`"i"` is for numbers of 32 bits, `"q"` for those of 64."""
        self._kind: Literal["i", "q"] = kind
        self._new = array(kind)
        self._size = self._new.itemsize
        self._file: IO[bytes] | None = None
        self._written = 0
        self._lock = threading.Lock()

    def extend(self, numbers: Iterable[int]) -> None:
        """Add numbers; `OSError` where there is no room for them."""
        self._new.extend(numbers)
        if len(self._new) >= IN_MEMORY:
            self._write()

    def __len__(self) -> int:
        return self._written + len(self._new)

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> "array[int]": ...
    def __getitem__(self, key: int | slice) -> "int | array[int]":
        """Return one number, or an array of a slice of them."""
        places = range(len(self))[key]
        if isinstance(places, int):
            return self._read(places, places + 1)[0]
        if places.step != 1:
            return array(self._kind, map(self.__getitem__, places))
        return self._read(places.start, max(places.start, places.stop))

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), IN_MEMORY):
            yield from self[start : start + IN_MEMORY]

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process as an array, in memory."""
        return array, (self._kind, self[:].tolist())

    def _read(self, start: int, stop: int) -> "array[int]":
        found = array(self._kind)
        if start < self._written:
            last = min(stop, self._written)
            found.frombytes(self._bytes(start * self._size, (last - start) * self._size))
        found += self._new[max(start - self._written, 0) : max(stop - self._written, 0)]
        return found

    def _bytes(self, at: int, size: int) -> bytes:
        assert self._file is not None
        if hasattr(os, "pread"):  # nor do processes that fork share a place in the file
            return os.pread(self._file.fileno(), size, at)
        with self._lock:
            self._file.seek(at)
            return self._file.read(size)

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - see below
                weakref.finalize(self, self._file.close)
            self._file.seek(self._written * self._size)
            left = memoryview(self._new).cast("B")
            while left:  # a disk that fills up first takes less than it is given
                left = left[self._file.write(left) :]
        except OSError as error:
            place = tempfile.gettempdir()
            reason = f"{error.strerror}; set TMPDIR to a folder with more room"
            raise OSError(error.errno, reason, place) from error
        self._written += len(self._new)
        self._new = array(self._kind)
