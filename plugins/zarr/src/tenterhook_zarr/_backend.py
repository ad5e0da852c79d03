"""The protocols between the layout of a store and its backend: a folder, or an object store.

They hold what a store does with its files, and no more. With both backends a file appears whole or
not at all, and of several writers exactly one is the first. An object store renames nothing.
"""

from contextlib import AbstractContextManager
from pathlib import Path, PurePath
from typing import Any, Protocol

from tenterhook_store import DamagedStore
from tenterhook_zarr._inside import LARGEST
from tenterhook_zarr._signs import Signs


class Files(Protocol):
    """The files of a store. Paths are those of the system, or keys of objects."""

    is_local: bool
    """Whether they are files of this machine, that can be opened by their path."""

    @property
    def root(self) -> str | None:
        """The folder that nothing is read outside of, where they are."""

    def show(self, path: PurePath) -> str:
        """Return what people call it."""

    def read(self, path: PurePath, most: int = LARGEST) -> bytes:
        """Return the content; `FileNotFoundError` where there is none.

        Raises `DamagedStore` for what is no file of the store, or longer than `most` bytes.
        """

    def look(self, path: PurePath) -> None:
        """Raise `DamagedStore` where a file is none, or is not of the store."""

    def size(self, path: PurePath) -> int:
        """Return how many bytes it has; `FileNotFoundError` where there is none."""

    def is_there(self, path: PurePath) -> bool:
        """Say whether there is such a file."""

    def names(self, folder: PurePath) -> list[str]:
        """Return what is in a folder, sorted; nothing where there is none."""

    def write(self, path: PurePath, content: bytes) -> None:
        """Replace a file, or make it; readers see the old content or the new, never a part."""

    def write_once(self, path: PurePath, content: bytes) -> bool:
        """Make a file; `False`, and nothing is changed, where there is one."""

    def move(self, aside: Path, path: PurePath) -> None:
        """Move a finished local file to a path, durably; it replaces what is there."""

    def move_once(self, aside: Path, path: PurePath) -> bool:
        """Move a finished local file to a path; `False` where there is a file already."""

    def make(self, *folders: PurePath) -> None:
        """Make folders, where the backend has such."""

    def make_below(self, standing: PurePath, *folders: PurePath) -> None:
        """Make folders below one that is there; `FileNotFoundError` where that is gone."""

    def remove(self, path: PurePath) -> None:
        """Remove a file, if it is there."""

    def remove_all(self, folder: PurePath) -> None:
        """Remove a folder as a whole, then all in it."""

    def settle(self, folder: PurePath) -> None:
        """End the removal of a folder that was cut short."""

    def tidy(self, folder: PurePath) -> None:
        """Remove what processes that were killed did not finish in a folder."""

    def staging(self, folder: PurePath) -> Path:
        """Return the local folder where files are until they are whole."""

    def is_exactly(self, path: PurePath) -> bool:
        """Say whether what is there has just this name, and not one that is taken for the same."""

    def newest(self, folder: PurePath, count: int) -> list[str]:
        """Return the names of the files of a folder that were written last, or are named last."""

    def state(self, folder: PurePath) -> object:
        """Return what is another once something was added to a folder, or may be."""

    def open_array(self, folder: PurePath, signs: "Signs") -> Any:
        """Open a zarr array for reading, in which all that is read is what was signed."""


class Backend(Protocol):
    """Where a store is, or will be once something is written."""

    @property
    def root(self) -> PurePath:
        """The path below which its files are."""

    @property
    def files(self) -> Files:
        """Its files."""

    @property
    def location(self) -> str:
        """What people call it."""

    def made(self) -> AbstractContextManager[None]:
        """Have a store be there. If that or the block fails, a new store is removed again."""

    def check_writable(self) -> None:
        """Raise `NotWritable` if nothing can be written here; leaves nothing behind."""


def read_file(files: Files, path: PurePath, most: int = LARGEST) -> bytes:
    """Return the content of a file that must be there, and of no more than `most` bytes."""
    try:
        return files.read(path, most)
    except FileNotFoundError:
        raise DamagedStore(files.show(path), "this file is gone") from None


def check_length(found: int, size: int, path: str) -> None:
    """Raise `DamagedStore` unless a file has as many bytes as it must have."""
    if found != size:
        raise DamagedStore(path, f"this file has {found} bytes and should have {size}")
