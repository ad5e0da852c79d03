"""Files that are whole or absent, and still there after the power fails."""

import contextlib
import ctypes
import heapq
import itertools
import os
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

from tenterhook_store import DamagedStore
from tenterhook_store.progress import showing
from tenterhook_store.unfinished import is_abandoned, unfinished_name
from tenterhook_zarr._inside import LARGEST, check_inside, open_inside, read_inside
from tenterhook_zarr._signs import Signs

T = TypeVar("T")
TRIES = 100
_FORMS: tuple[Literal["NFC"], Literal["NFD"]] = ("NFC", "NFD")
PARTIAL = ".partial"
"""The ending of files that are not whole yet; their names begin with a dot."""

# os.posix_fallocate writes a byte into every block where a file system cannot take room at once.
_fallocate = None
if sys.platform == "linux":
    _fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)


def make_folders(*paths: Path) -> list[Path]:
    """Make folders and those above them; return those that were not there, outermost first."""
    return _insist(lambda: _make_folders(*paths))


def make_scratch(path: Path) -> None:
    """Make a folder and those above it, for what may be gone when the power fails.

    It is this process's alone, and so is the one that it is in.
    """

    def attempt() -> None:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)

    _insist(attempt)


def in_folder(path: Path, act: Callable[[], T]) -> T:
    """Do something in a folder that is made for it, and again if it is gone.

    Others remove folders that are empty, as this one is until something is put into it.
    """

    def attempt() -> T:
        _make_folders(path)
        return act()

    return _insist(attempt)


def _insist(act: Callable[[], T]) -> T:
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            return act()
    return act()


def _make_folders(*paths: Path) -> list[Path]:
    made: list[Path] = []
    for path in paths:
        above = itertools.takewhile(lambda each: not each.exists(), (path, *path.parents))
        made += reversed(list(above))
        path.mkdir(parents=True, exist_ok=True)
    for parent in dict.fromkeys(each.parent for each in made):
        sync_folder(parent)
    return made


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in place of what is there; readers see the one or the other."""
    temporary = write_aside(path, content)
    try:
        move(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move(temporary: Path, path: Path) -> None:
    """Give a file that was written aside its name, durably."""
    temporary.replace(path)
    sync_folder(path.parent)


def write_once(path: Path, content: bytes) -> bool:
    """Put a file where there is none; `False`, and nothing is changed, where there is one."""
    temporary = write_aside(path, content)
    try:
        return move_once(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_room(descriptor: int, size: int) -> None:
    """Have an empty file be as long as it will be, where the system can.

    It is written faster than one that grows. Where there is not that much room the file goes on
    growing, until a write says so.
    """
    if _fallocate is not None:
        _fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size))


def start_writing(descriptor: int, start: int, size: int) -> None:
    """Have the disk begin with a part of a file, where the system can; waits for nothing."""
    if hasattr(os, "posix_fadvise"):
        # Begins to write the part, and would drop it from memory if it were on the disk already.
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)


def nearest_standing(path: Path) -> Path:
    """Return the path, or the innermost one above it that is there."""
    return next(at for at in (path, *path.parents) if os.path.lexists(at))


TRIAL = ".tenterhook-"
"""What the names of folders begin with that are made to see whether they can be."""


def try_writing(folder: Path) -> None:
    """Raise `OSError` if no folder can be made in this one; leaves nothing behind."""
    os.rmdir(tempfile.mkdtemp(prefix=TRIAL, dir=folder))


def is_there(path: Path) -> bool:
    """Say whether something is there, a link among others; `OSError` where that is not known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, if it is there; of a link, the link alone."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove_files(path: Path, count: Callable[[], object]) -> None:
    """Remove the files below a folder and leave folders and links; for who wants to count them.

    As `shutil.rmtree` does, so that nobody can put a link into the place of a folder meanwhile;
    systems that cannot do this do nothing.
    """
    if path.is_symlink() or not hasattr(os, "fwalk"):
        return
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        for _, _, names, folder in os.fwalk(path, topdown=False):
            for name in names:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                count()


def remove_aside(path: Path) -> None:
    """Remove a folder and all in it: at once from its place, then file by file."""
    aside = path.with_name(f".{unfinished_name()}{PARTIAL}")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.rename(aside)
        sync_folder(path.parent)
    total = sum(len(names) for _, _, names in os.walk(aside))
    with showing(f"Deleting {path.name}", total, "files") as work:
        remove_files(aside, work)
        remove_tree(aside)


def remove_if_empty(path: Path) -> None:
    """Remove a folder that has nothing in it."""
    with contextlib.suppress(OSError):
        path.rmdir()


def is_unfinished(name: str) -> bool:
    """Say whether a file's name is one of a file that is not whole yet."""
    return name.startswith(".") and name.endswith(PARTIAL)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed did not finish in this folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if is_unfinished(name):
            path = folder / name
            if is_abandoned(path, name[1 : -len(PARTIAL)]):
                if path.is_dir():
                    remove_tree(path)
                else:
                    path.unlink(missing_ok=True)


def move_once(aside: Path, path: Path) -> bool:
    """Give a file that was written aside its name, durably; `False` where that is taken."""
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        aside.rename(path)
    else:
        aside.unlink()
    sync_folder(path.parent)
    return True


def make_below(standing: Path, *folders: Path) -> None:
    """Make folders below one that is there; `FileNotFoundError` where that is gone."""
    changed = dict[Path, None]()
    for folder in folders:
        parts = folder.relative_to(standing)
        for part in (*reversed(parts.parents[:-1]), parts):
            with contextlib.suppress(FileExistsError):
                (standing / part).mkdir()
                changed[(standing / part).parent] = None
    for each in changed:
        sync_folder(each)


def write_aside(path: Path, content: bytes) -> Path:
    """Write a file beside the place it is for, under the name of an unfinished one; return it."""
    temporary = path.with_name(f".{unfinished_name()}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


class LocalFiles:
    """The files of a store in a folder.

    Nothing is read or written outside of it: a link on the way that leads out is `DamagedStore`.
    """

    is_local = True

    def __init__(self, root: Path) -> None:
        self._root = root
        self.root = os.path.realpath(root)

    def show(self, path: PurePath) -> str:
        """Return the path."""
        return str(path)

    def read(self, path: PurePath, most: int = LARGEST) -> bytes:
        """Return the content; `FileNotFoundError` where there is none."""
        return read_inside(str(path), self.root, most)

    def look(self, path: PurePath) -> None:
        """Raise `DamagedStore` where a file is none, or is not of the store."""
        try:
            os.close(open_inside(str(path), self.root))
        except FileNotFoundError:
            raise DamagedStore(str(path), "this file is gone") from None

    def size(self, path: PurePath) -> int:
        """Return how many bytes it has; `FileNotFoundError` where there is none."""
        return Path(path).stat().st_size

    def is_there(self, path: PurePath) -> bool:
        """Say whether there is such a file; `OSError` where that cannot be known."""
        return is_there(Path(path))

    def names(self, folder: PurePath) -> list[str]:
        """Return what is in a folder, sorted; nothing where there is none."""
        try:
            found = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        self._check(folder)
        return found

    def write(self, path: PurePath, content: bytes) -> None:
        """Put a file in place of what is there."""
        self._check(path.parent)
        write_whole(Path(path), content)

    def write_once(self, path: PurePath, content: bytes) -> bool:
        """Put a file where there is none."""
        self._check(path.parent)
        return write_once(Path(path), content)

    def move(self, aside: Path, path: PurePath) -> None:
        """Rename what was written aside."""
        self._check(path.parent)
        move(aside, Path(path))

    def move_once(self, aside: Path, path: PurePath) -> bool:
        """Rename what was written aside, where there is nothing."""
        self._check(path.parent)
        return move_once(aside, Path(path))

    def make(self, *folders: PurePath) -> None:
        """Make folders and those above them."""
        for folder in folders:
            self._check(folder)
        make_folders(*map(Path, folders))

    def make_below(self, standing: PurePath, *folders: PurePath) -> None:
        """Make folders below one that is there."""
        for folder in folders:
            self._check(folder)
        make_below(Path(standing), *map(Path, folders))

    def remove(self, path: PurePath) -> None:
        """Remove a file, if it is there."""
        self._check(path.parent)
        Path(path).unlink(missing_ok=True)

    def is_exactly(self, path: PurePath) -> bool:
        """Say whether what is there has just this name."""
        name = path.name
        others = {name.swapcase(), *(unicodedata.normalize(form, name) for form in _FORMS)} - {name}
        if not any(is_there(Path(path).with_name(other)) for other in others):
            return True
        return name in self.names(path.parent)

    def newest(self, folder: PurePath, count: int) -> list[str]:
        """Return the names of the files of a folder that were written last."""
        self._check(folder)
        try:
            with os.scandir(folder) as found:
                times = [
                    (each.stat(follow_symlinks=False).st_mtime_ns, each.name) for each in found
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name for _, name in heapq.nlargest(count, times)]

    def state(self, folder: PurePath) -> object:
        """Return when names were last added to a folder or removed."""
        try:
            return os.stat(folder).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _check(self, path: PurePath) -> None:
        check_inside(str(path), self.root)

    def remove_all(self, folder: PurePath) -> None:
        """Rename a folder, then remove all in it."""
        remove_aside(Path(folder))

    def settle(self, folder: PurePath) -> None:
        """Do nothing: what is being removed has another name."""

    def tidy(self, folder: PurePath) -> None:
        """Remove what processes that were killed did not finish."""
        remove_abandoned(Path(folder))

    def staging(self, folder: PurePath) -> Path:
        """Return a folder of the same file system, from which files can be renamed."""
        return Path(folder) / ".writing"

    def open_array(self, folder: PurePath, signs: Signs) -> Any:
        """Open a zarr array for reading, in which all that is read is what was signed."""
        import zarr

        from tenterhook_zarr._strict_reads import StrictReads

        store = StrictReads(zarr.storage.LocalStore(Path(folder), read_only=True), signs)
        return zarr.open_array(store=store, mode="r", zarr_format=3)
