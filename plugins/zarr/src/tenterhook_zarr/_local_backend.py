"""A store's own folder: where it may be, the mark in it, and taking it back when it fails."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tenterhook_store import DamagedStore, NoStore, NotAStore, NotWritable
from tenterhook_zarr._backend import Files
from tenterhook_zarr._files import (
    TRIAL,
    LocalFiles,
    in_folder,
    is_there,
    is_unfinished,
    make_folders,
    nearest_standing,
    remove_abandoned,
    remove_if_empty,
    try_writing,
    write_once,
)
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._record_json import record_json

MARK = "tenterhook.json"
FORMAT = {"format": "tenterhook store", "version": 1}
_LOOKS = 50

TIDYING = 60.0
"""Seconds in which a store looks once for what was left in its folders: it lists them whole."""


class LocalBackend:
    """A folder that is a store, or will be one once something is written."""

    def __init__(self, path: str | os.PathLike[str], create: bool) -> None:
        self.root = Path(_checked_path(path)).expanduser().absolute()
        self.files: Files = LocalFiles(self.root)
        self._next_tidying = 0.0
        self._check_folder(create)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.root)

    @property
    def _parts(self) -> tuple[Path, Path]:
        return self.root / "runs", self.root / "tensors"

    def check_writable(self) -> None:
        """Raise `NotWritable` if nothing can be written here; leaves nothing behind."""
        standing = nearest_standing(self.root)
        try:
            try_writing(standing)
        except OSError as error:
            raise NotWritable(self.location, cannot_write(error)) from error

    def _check_folder(self, create: bool) -> None:
        try:
            standing = nearest_standing(self.root)
            if not standing.is_dir():
                raise NotAStore(str(standing), "this is no folder, so no store can be in it")
            if standing != self.root:
                _check_names(standing, self.root)
                if not create:
                    raise NoStore(self.location, "there is no such folder")
            elif self._holds_store():
                with contextlib.suppress(FileNotFoundError):  # taken back with the empty store
                    check_format(self.files.read(self.root / MARK), self.location)
            elif not create:
                raise NoStore(self.location, "this folder is empty")
        except (NotAStore, NoStore):
            raise
        except PermissionError as error:
            raise NotWritable(self.location, f"it cannot be opened: {error.strerror}") from error
        except OSError as error:  # a name that is too long, a loop of links
            raise NotAStore(self.location, f"no store can be there: {error.strerror}") from error

    def _holds_store(self) -> bool:
        """Whether the folder is marked; `False` where it is empty, `NotAStore` where it is not.

        A process that begins a store, or takes a new one back, has its folders there without the
        mark for a moment; that is waited for. What tries whether it can write there is ours too.
        """
        for _ in range(_LOOKS):
            names = {
                name
                for name in os.listdir(self.root)
                if not (is_unfinished(name) or name.startswith(TRIAL))
            }
            if MARK in names or not names:
                return MARK in names
            if names - {"runs", "tensors"}:
                break
            time.sleep(0.01)
        if not any(files for _, _, files in os.walk(self.root)):
            return False  # empty folders, that a removal which was cut short or raced with left
        if is_there(self.root / MARK):  # it came while we looked
            return True
        reason = "this folder holds something else and no store; choose another"
        raise NotAStore(self.location, reason)

    def _mark(self) -> bool:
        """Say in the folder that it is a store; `False` where that was said."""
        return in_folder(self.root, lambda: write_once(self.root / MARK, to_json(FORMAT)))

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Have the folder be a store; if that, or what is done with it, fails, unmake it."""
        new: list[Path] = []
        marked = False
        try:
            new = make_folders(self.root)
            marked = self._mark()
            for folder in (self.root, *self._parts):
                if time.monotonic() >= self._next_tidying:
                    remove_abandoned(folder)
                make_folders(folder)
            self._next_tidying = time.monotonic() + TIDYING
            yield
            if not is_there(self.root / MARK):  # another process failed, and took it back
                self._mark()
        except BaseException as error:
            if marked:
                self._unmake()
            for folder in reversed(new):
                remove_if_empty(folder)
            if isinstance(error, OSError) and not isinstance(error, NotWritable | NotAStore):
                raise NotWritable(self.location, cannot_write(error)) from error
            raise

    def _unmake(self) -> None:
        """Take back a new store in which nothing came to be, and that nobody else uses."""
        for folder in self._parts:
            remove_if_empty(folder)
            if os.path.lexists(folder):
                return
        (self.root / MARK).unlink(missing_ok=True)
        if os.listdir(self.root):
            self._mark()


def _checked_path(path: str | os.PathLike[str]) -> str:
    found = os.fspath(path)
    if not found:
        raise NotAStore("''", "the path is empty")
    if "\0" in found:
        raise NotAStore(repr(found), "the path holds a NUL character")
    return found


def _check_names(standing: Path, path: Path) -> None:
    """Raise `OSError` for a name, among the folders still to make, that the system never takes."""
    for part in path.relative_to(standing).parts:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(standing / part)


def check_format(mark: bytes, location: str) -> None:
    """Raise `NotAStore` unless the mark is one of a store that this version reads."""
    try:
        found: Any = record_json(mark, MARK)
        version = found["version"] if found["format"] == FORMAT["format"] else None
    except (DamagedStore, LookupError, TypeError):
        version = None
    if version is None:
        raise NotAStore(location, f"its {MARK} is not one of a store")
    if version != FORMAT["version"]:
        raise NotAStore(
            location,
            f"this store has format {version}, and this version of tenterhook-zarr reads format "
            f"{FORMAT['version']}; update it",
        )


def cannot_write(error: OSError) -> str:
    """Say why nothing can be written somewhere, and the way out."""
    reason = error.strerror or str(error)
    return f"nothing can be written there ({reason}); choose another place, or make room or rights"
