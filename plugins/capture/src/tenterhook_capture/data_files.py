"""Files of data as bytes: plain ones where they lie, compressed ones unpacked beside them.

A compressed file cannot be read from the middle. It is unpacked once, into a temporary file that
has no name and goes when the process does (`TMPDIR` says where), and is read there. What is in
memory is a block of it.
"""

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast, final

from tenterhook_capture.document_errors import UnreadableData

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""The endings of compressed files that are read; what they hold says the ending before."""

BLOCK = 1 << 20
"""Bytes that are unpacked at once."""

READ = 1 << 16
"""Bytes that are read at once of what is unpacked."""

Stream = contextlib.AbstractContextManager[IO[bytes]]


class DataFile:
    """A file of data, whose bytes can be read from anywhere in it, by any thread."""

    def __init__(self, path: Path, spool: "Spool | None" = None) -> None:
        """Unpack it into `spool`, or one of its own, where it is compressed.

        Raises `UnreadableData` where it cannot be opened or unpacked.
        """
        self.path = path
        self._at = path.absolute()
        self._state = self._look()
        self._spool = spool or Spool()
        self._unpacked = _unpack(self._at, self._spool) if is_compressed(path) else None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def ending(self) -> str:
        """What its name ends in, without what says that it is compressed: `.jsonl`."""
        return ending_of(self.path)

    def open(self) -> BinaryIO:
        """Open it for reading, from its first byte."""
        if self._unpacked is not None:
            return self._spool.open(self._unpacked)
        return _open(self._at)

    def check_unchanged(self) -> None:
        """Raise `UnreadableData` where it is not the file any more that it was."""
        if self._look() != self._state:
            raise UnreadableData(str(self.path), "it was changed since its documents were found")

    def _look(self) -> tuple[int, int]:
        with _open(self._at) as file:
            found = os.fstat(file.fileno())
        return found.st_size, found.st_mtime_ns


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed, in a way that is read here."""
    return path.suffix.lower() in COMPRESSED


def ending_of(path: Path) -> str:
    """Return what a name ends in, without what says that it is compressed."""
    return (path.with_suffix("") if is_compressed(path) else path).suffix.lower()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except PermissionError:
        raise UnreadableData(str(path), "this file may not be read; check its rights") from None
    except FileNotFoundError:
        raise UnreadableData(str(path), "this file is gone") from None


# --- unpacking


@final
class Spool:
    """What files hold, one after the other in one file without a name.

    One, because a folder may have more files than a process may open.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._size = 0
        self._lock = threading.Lock()

    def add(self, blocks: Iterator[bytes]) -> range:
        """Append blocks; return where they are."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is there as long as this is
            weakref.finalize(self, self._file.close)
        start = self._size
        self._file.seek(start)
        for block in blocks:
            self._file.write(block)
            self._size += len(block)
        self._file.flush()
        return range(start, self._size)

    def open(self, where: range) -> BinaryIO:
        """Open a part for reading; readers do not know of each other."""
        return cast("BinaryIO", io.BufferedReader(_Reader(self, where), READ))

    def read(self, at: int, count: int) -> bytes:
        """Return up to so many bytes from a place on."""
        assert self._file is not None
        if hasattr(os, "pread"):  # a child that was forked shares the place that `seek` sets
            return os.pread(self._file.fileno(), count, at)
        with self._lock:
            self._file.seek(at)
            return self._file.read(count)


class _Reader(io.RawIOBase):
    def __init__(self, spool: Spool, where: range) -> None:
        self._spool = spool
        self._where = where
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: len(self._where)}
        self._place = starts[whence] + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        left = max(len(self._where) - self._place, 0)
        found = self._spool.read(self._where.start + self._place, min(len(buffer), left))
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)


def _unpack(path: Path, spool: Spool) -> range:
    """Unpack a file; `UnreadableData` says where in its content it is damaged."""
    size, lines = 0, 1
    kind = path.suffix.lower()

    def blocks() -> Iterator[bytes]:
        nonlocal size, lines
        with _open(path) as file, _streams()[kind](file) as stream:
            while block := stream.read(BLOCK):
                yield block
                size += len(block)
                lines += block.count(b"\n")

    try:
        return spool.add(blocks())
    except (UnreadableData, ImportError):
        raise
    except Exception as error:
        # What zlib, lzma, pyarrow and numcodecs raise has no base of its own. A disk that is full
        # is no trouble of the file's.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = f"it is damaged after {size:,} bytes of its content, in line {lines}"
        raise UnreadableData(str(path), f"{reason} ({kind}: {_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _streams() -> dict[str, Callable[[BinaryIO], Stream]]:
    return {
        ".gz": lambda file: cast("Stream", gzip.GzipFile(fileobj=file)),
        ".bz2": lambda file: cast("Stream", bz2.BZ2File(file)),
        ".xz": lambda file: cast("Stream", lzma.LZMAFile(file)),
        ".zst": _zstandard,
    }


def _zstandard(file: BinaryIO) -> Stream:
    """Return what unpacks zstd, by whichever library is there."""
    for make in (_by_pyarrow, _by_numcodecs):
        with contextlib.suppress(ModuleNotFoundError):
            return make(file)
    raise ImportError(
        "Files that end in .zst need a library that reads zstd: "
        "`pip install 'tenterhook-capture[zst]'`.",
        name="numcodecs",
    )


def _by_pyarrow(file: BinaryIO) -> Stream:
    stream: Stream = importlib.import_module("pyarrow").CompressedInputStream(file, "zstd")
    return stream


def _by_numcodecs(file: BinaryIO) -> Stream:
    """Unpack in memory, which is all that the library that zarr brings can do."""
    content = importlib.import_module("numcodecs.zstd").decompress(file.read())
    return cast("Stream", io.BytesIO(content))
