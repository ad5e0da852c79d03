"""Stores in object stores: each file is one object, written in one piece; nothing is renamed.

obstore sends the requests, or fsspec where obstore is not installed. An object that must be written
only once is written on the condition that it is not there.
"""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from tenterhook_store import NoStore, NotAStore, NotWritable, Unreachable
from tenterhook_store.progress import showing
from tenterhook_zarr._backend import Files
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._inside import LARGEST, check_length_below
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._local_backend import FORMAT, MARK, check_format
from tenterhook_zarr._object_protocol import NO_BUCKET, Objects, Refused
from tenterhook_zarr._signs import Signs
from tenterhook_zarr._urls import ObjectUrl

DELETED = "deleted.json"
"""Is in a folder that is being removed, from before its first object goes until after the last."""

PROBE = ".tenterhook-"
"""How the names of objects begin that are put to see whether they can be."""

AT_ONCE = 16
"""How many objects are removed side by side, because each waits for the server."""

INSTALL = "pip install 'tenterhook-zarr[remote]'"


def open_objects(url: ObjectUrl, *, retries: int, timeout: float) -> Objects:
    """Open the bucket of a URL with what is installed; `ImportError` says what to install."""
    with contextlib.suppress(ModuleNotFoundError):
        from tenterhook_zarr._obstore import ObstoreObjects

        return ObstoreObjects(url, retries=retries, timeout=timeout)
    try:
        from tenterhook_zarr._fsspec import FsspecObjects

        return FsspecObjects(url, retries=retries, timeout=timeout)
    except ImportError as error:
        raise ImportError(f"{url} needs obstore, or fsspec with its own: {INSTALL}") from error


class ObjectFiles:
    """The files of a store in an object store."""

    is_local = False
    root = None

    def __init__(self, url: ObjectUrl, objects: Objects) -> None:
        self._url = url
        self._objects = objects

    def show(self, path: PurePath) -> str:
        """Return the URL of an object."""
        bucket = f"{self._url.scheme}://{self._url.bucket}"
        return f"{bucket}/{self._key(path)}".rstrip("/")

    def read(self, path: PurePath, most: int = LARGEST) -> bytes:
        """Return an object; `FileNotFoundError` where there is none."""
        with self._reading(path):
            found = self._objects.get(self._key(path), most)
        check_length_below(len(found), most, self.show(path))
        return found

    def look(self, path: PurePath) -> None:
        """Do nothing: an object is no link and no pipe."""

    def size(self, path: PurePath) -> int:
        """Return how many bytes an object has; `FileNotFoundError` where there is none."""
        with self._reading(path):
            return self._objects.size(self._key(path))

    def is_there(self, path: PurePath) -> bool:
        """Say whether there is such an object, in a folder that is not being removed."""
        try:
            self.size(path)
        except FileNotFoundError:
            return False
        if path.name in (DELETED, MARK):
            return True
        return not self.is_there(path.parent / DELETED)

    def names(self, folder: PurePath) -> list[str]:
        """Return what is in a folder, sorted; nothing where there is none."""
        with self._reading(folder):
            return sorted(self._objects.names(self._key(folder)))

    def write(self, path: PurePath, content: bytes) -> None:
        """Put an object."""
        self._upload(path, content, once=False)

    def write_once(self, path: PurePath, content: bytes) -> bool:
        """Put an object where there is none."""
        return self._upload(path, content, once=True)

    def move(self, aside: Path, path: PurePath) -> None:
        """Put what was written to a local file, and remove that."""
        self._upload(path, aside, once=False)
        aside.unlink()

    def move_once(self, aside: Path, path: PurePath) -> bool:
        """Put what was written to a local file where there is no object, and remove that."""
        is_new = self._upload(path, aside, once=True)
        if is_new:
            aside.unlink()
        return is_new

    def make(self, *folders: PurePath) -> None:
        """Do nothing: there are no folders."""

    def make_below(self, standing: PurePath, *folders: PurePath) -> None:
        """Do nothing: there are no folders."""

    def is_exactly(self, path: PurePath) -> bool:
        """Say that it is: other names are other objects."""
        return True

    def newest(self, folder: PurePath, count: int) -> list[str]:
        """Return the names that come last: when each was put would have to be asked for."""
        return self.names(folder)[-count:]

    def state(self, folder: PurePath) -> object:
        """Return the minute: a folder says nothing of what was added to it."""
        return time.monotonic() // 60

    def remove(self, path: PurePath) -> None:
        """Remove an object, if it is there."""
        with self._writing(path):
            self._objects.delete(self._key(path))

    def remove_all(self, folder: PurePath) -> None:
        """Say that a folder is being removed, then remove all objects below it."""
        self.write(folder / DELETED, to_json({}))
        self.settle(folder, known=True)

    def settle(self, folder: PurePath, *, known: bool = False) -> None:
        """End the removal of a folder that was cut short."""
        if not known and not self.is_there(folder / DELETED):
            return
        with self._reading(folder):
            keys = self._objects.keys(self._key(folder))
        mark = self._key(folder / DELETED)
        others = [PurePosixPath(key) for key in keys if key != mark]
        with (
            showing(f"Deleting {folder.name}", len(others), "objects") as work,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            for _ in pool.map(self.remove, others):
                work()
        self.remove(folder / DELETED)

    def tidy(self, folder: PurePath) -> None:
        """Do nothing: an object is whole or absent."""

    def staging(self, folder: PurePath) -> Path:
        """Return the folder of this machine where shards are until they are put."""
        name = checksum(self.show(folder).encode())
        return Path(tempfile.gettempdir()) / f"tenterhook-{_user()}" / name

    def open_array(self, folder: PurePath, signs: Signs) -> Any:
        """Open a zarr array for reading, in which all that is read is what was signed."""
        import zarr

        with self._reading(folder), self._objects.talking():
            store = self._objects.zarr_store(self._key(folder), signs)
            return _Reading(zarr.open_array(store=store, mode="r", zarr_format=3), self, folder)

    def _upload(self, path: PurePath, content: bytes | Path, *, once: bool) -> bool:
        with self._writing(path):
            return self._objects.put(self._key(path), content, once)

    def _key(self, path: PurePath) -> str:
        key = path.as_posix()
        return "" if key == "." else key

    @contextlib.contextmanager
    def _reading(self, path: PurePath) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, Unreachable, NotWritable):
            raise
        except OSError as error:
            raise Unreachable(self.show(path), f"it cannot be read ({_message(error)})") from error

    @contextlib.contextmanager
    def _writing(self, path: PurePath) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            raise NotWritable(
                self.show(path), f"it cannot be written ({_message(error)})"
            ) from error
        except FileNotFoundError as error:  # what can be missing where something is put
            raise Unreachable(self.show(path), f"it cannot be written ({NO_BUCKET})") from error
        except OSError as error:
            reason = (
                f"it cannot be written ({_message(error)}). What is committed stays; the same "
                "command goes on"
            )
            raise Unreachable(self.show(path), reason) from error


class _Reading:
    """A zarr array whose failures name its object."""

    def __init__(self, array: Any, files: ObjectFiles, folder: PurePath) -> None:
        self._array, self._files, self._folder = array, files, folder

    @property
    def oindex(self) -> "_Reading":
        return self

    def __getitem__(self, key: Any) -> Any:
        with self._files._reading(self._folder), self._files._objects.talking():
            return self._array.oindex[key]


class ObjectBackend:
    """A prefix of a bucket that is a store, or will be one once something is written."""

    def __init__(self, url: ObjectUrl, *, create: bool, retries: int, timeout: float) -> None:
        self._url = url
        self.root: PurePath = PurePosixPath(url.prefix)
        try:
            objects = open_objects(url, retries=retries, timeout=timeout)
        except OSError as error:
            raise Unreachable(str(url), f"it cannot be opened ({_message(error)})") from error
        self._objects = ObjectFiles(url, objects)
        self.files: Files = self._objects
        self._check(create)

    @property
    def location(self) -> str:
        """The URL."""
        return str(self._url)

    def _check(self, create: bool) -> None:
        try:
            check_format(self.files.read(self.root / MARK), self.location)
        except FileNotFoundError:
            names = self.files.names(self.root)
            others = {name for name in names if not name.startswith(PROBE)}
            if others - {"runs", "tensors", MARK}:
                reason = "this prefix holds something else and no store; choose another"
                raise NotAStore(self.location, reason) from None
            if not create:
                raise NoStore(self.location, "there is no store at this prefix") from None

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Have the prefix be a store."""
        self.files.write_once(self.root / MARK, to_json(FORMAT))
        yield

    def check_writable(self) -> None:
        """Raise `NotWritable` or `Unreachable` if nothing can be put here."""
        probe = self.root / f"{PROBE}{secrets.token_hex(8)}"
        self.files.write(probe, b"")
        self.files.remove(probe)


def _message(error: OSError) -> str:
    return " ".join(str(error).split())[:600]


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "me"
