"""Opening the files of a store's folder: regular ones alone, and inside the folder.

A store may come from anybody. In a file's place there may be a link to somewhere else, a pipe that
nobody writes to, a device without an end, a folder, or a file that is larger than memory. All of
these are told before anything is read, and nothing waits.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from tenterhook_store import DamagedStore

LARGEST = 64 * 2**20
"""Bytes that a record or the metadata of an array has at most."""

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # else opening a pipe waits until somebody writes to it
    | getattr(os, "O_BINARY", 0)
)

_LINK = (errno.ELOOP, errno.EMLINK)
"""What the system says of a link that is not to be followed."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_inside(path: str, root: str | None) -> int:
    """Return the descriptor of a regular file that is below `root`, or anywhere without one.

    Raises `FileNotFoundError`, and `DamagedStore` for what is no such file.
    """
    try:
        found = _open(path, root)
    except FileNotFoundError:
        raise
    except NotADirectoryError:  # a file is where a folder should be: there is no such file
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    except OSError as error:
        raise DamagedStore(path, f"this file cannot be read: {error.strerror}") from error
    try:
        mode = os.fstat(found).st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
            raise DamagedStore(path, f"this is {kind} and no file")
        if root is not None:
            check_inside(os.path.dirname(path), root)
    except BaseException:
        os.close(found)
        raise
    return found


def _open(path: str, root: str | None) -> int:
    try:
        return os.open(path, _FLAGS)
    except IsADirectoryError:
        raise DamagedStore(path, "this is a folder and no file") from None
    except PermissionError as error:
        if os.path.isdir(path):  # what Windows says of a folder
            raise DamagedStore(path, "this is a folder and no file") from error
        raise
    except OSError as error:
        if error.errno not in _LINK or root is None:
            raise
    check_inside(path, root)
    real = os.path.realpath(path)
    if os.path.islink(real):
        raise DamagedStore(path, "this link leads round in a circle")
    return os.open(real, _FLAGS)


def check_inside(path: str, root: str) -> None:
    """Raise `DamagedStore` where a link on the way leads out of the store."""
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        reason = f"a link leads out of the store, to {real}; copy what is there, or open it there"
        raise DamagedStore(path, reason)


@contextlib.contextmanager
def reading(path: str, root: str | None) -> Iterator[int]:
    """Have a file be open for reading; see `open_inside`."""
    found = open_inside(path, root)
    try:
        yield found
    finally:
        os.close(found)


def read_inside(path: str, root: str | None, most: int = LARGEST) -> bytes:
    """Return the content of a file; `DamagedStore` where it is longer than `most` bytes."""
    with reading(path, root) as found:
        size = os.fstat(found).st_size
        check_length_below(size, most, path)
        parts = []
        try:
            while size > 0 and (part := os.read(found, size)):
                parts.append(part)
                size -= len(part)
        except OSError as error:
            raise DamagedStore(path, f"this file cannot be read: {error.strerror}") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_length_below(size: int, most: int, path: str) -> None:
    """Raise `DamagedStore` where a file is longer than one of its kind can be."""
    if size > most:
        raise DamagedStore(path, f"this file has {size:,} bytes, and {most:,} are the most it may")
