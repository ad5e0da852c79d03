"""Object stores through fsspec, where obstore is not installed."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]

from tenterhook_zarr._objects import Refused
from tenterhook_zarr._urls import ObjectUrl


class FsspecObjects:
    """A bucket, through the file system of fsspec for its scheme.

    Not every file system of fsspec can put what is not there and nothing else; where one cannot,
    what is there is looked at first, and two processes that begin one run at the same moment may
    both take themselves for the first.
    """

    def __init__(self, url: ObjectUrl, *, retries: int) -> None:
        self._files: Any = fsspec.filesystem(url.scheme)
        self._bucket = url.bucket
        self._tries = retries + 1

    def get(self, key: str) -> bytes:
        """Return an object."""
        return bytes(self._try(self._files.cat_file, self._path(key)))

    def size(self, key: str) -> int:
        """Return how many bytes an object has."""
        self._files.invalidate_cache()
        found = self._try(self._files.info, self._path(key))
        if found["type"] != "file":
            raise FileNotFoundError(key)
        return int(found["size"])

    def put(self, key: str, content: bytes | Path, once: bool) -> bool:
        """Put an object; `False` if `once` and there is one."""
        path = self._path(key)
        held = content.read_bytes() if isinstance(content, Path) else content
        if once:
            try:
                self.size(key)
                return False
            except FileNotFoundError:
                pass
        self._try(self._files.pipe_file, path, held)
        return True

    def names(self, prefix: str) -> list[str]:
        """Return the next parts of all keys below a prefix, each once."""
        self._files.invalidate_cache()
        try:
            found = self._try(self._files.ls, self._path(prefix), detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    def keys(self, prefix: str) -> list[str]:
        """Return all keys below a prefix."""
        self._files.invalidate_cache()
        found = self._try(self._files.find, self._path(prefix))
        start = len(self._path("").strip("/"))
        return [path.strip("/")[start:].lstrip("/") for path in found]

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        try:
            self._try(self._files.rm_file, self._path(key))
        except FileNotFoundError:
            return

    def zarr_store(self, prefix: str) -> Any:
        """Return a store of zarr's that reads below a prefix."""
        from fsspec.implementations.asyn_wrapper import (  # type: ignore[import-untyped]
            AsyncFileSystemWrapper,
        )
        from zarr.storage import FsspecStore

        from tenterhook_zarr._present import Present

        files = self._files
        if not files.async_impl:
            files = AsyncFileSystemWrapper(files, asynchronous=True)
        else:
            files = fsspec.filesystem(files.protocol, asynchronous=True)
        return Present(FsspecStore(files, read_only=True, path=self._path(prefix)))

    def talking(self) -> AbstractContextManager[None]:
        """Do nothing: file systems raise `OSError`."""
        return nullcontext()

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._bucket, key) if part) or "/"

    def _try(self, act: Any, *arguments: Any, **options: Any) -> Any:
        """Do it, and again where the store fails; what is refused or not there is so at once."""
        for left in reversed(range(self._tries)):
            try:
                return act(*arguments, **options)
            except FileNotFoundError:
                raise
            except PermissionError as error:
                raise Refused(f"refused; look at the credentials: {error}") from error
            except OSError:
                if not left:
                    raise
        raise AssertionError("there is one try at least")
