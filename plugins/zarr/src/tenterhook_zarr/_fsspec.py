"""Object stores through fsspec, where obstore is not installed."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]

from tenterhook.errors import TenterhookError
from tenterhook_zarr._object_protocol import Refused
from tenterhook_zarr._signs import Signs
from tenterhook_zarr._urls import ObjectUrl

TIMEOUTS: Mapping[str, Callable[[float], dict[str, Any]]] = {
    "s3": lambda seconds: {"config_kwargs": {"read_timeout": seconds, "connect_timeout": seconds}},
    "gs": lambda seconds: {"requests_timeout": seconds},
    "az": lambda seconds: {"read_timeout": seconds, "connection_timeout": seconds},
    "memory": lambda _: {},
}
"""How the file system of each scheme is told how long to wait for an answer."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 15.0
"""Seconds before the second try, doubled before each one after it."""

OURS = (TenterhookError, ValueError, TypeError, LookupError, AttributeError, ImportError)
"""What no server's failure is raised as."""


class FsspecObjects:
    """A bucket, through the file system of fsspec for its scheme: s3fs, gcsfs or adlfs.

    All of these can put what is not there and nothing else, in one request.
    """

    def __init__(self, url: ObjectUrl, *, retries: int, timeout: float) -> None:
        self._scheme = url.scheme
        self._options = TIMEOUTS[url.scheme](timeout)
        try:
            self._files: Any = fsspec.filesystem(url.scheme, **self._options)
        except ValueError as error:  # without credentials, adlfs says so
            raise Refused(str(error)) from error
        self._bucket = url.bucket
        self._tries = retries + 1

    def get(self, key: str, most: int) -> bytes:
        """Return an object, however long it is."""
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
        whole = content.read_bytes() if isinstance(content, Path) else content
        mode = "create" if once else "overwrite"
        try:
            self._try(self._files.pipe_file, self._path(key), whole, mode=mode)
        except FileExistsError:
            return False
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

    def zarr_store(self, prefix: str, signs: Signs) -> Any:
        """Return a store of zarr's that reads below a prefix what was signed."""
        from fsspec.implementations.asyn_wrapper import (  # type: ignore[import-untyped]
            AsyncFileSystemWrapper,
        )
        from zarr.storage import FsspecStore

        from tenterhook_zarr._strict_reads import StrictReads

        if self._files.async_impl:
            files = fsspec.filesystem(self._scheme, asynchronous=True, **self._options)
        else:
            files = AsyncFileSystemWrapper(self._files, asynchronous=True)
        return StrictReads(FsspecStore(files, read_only=True, path=self._path(prefix)), signs)

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Raise what a file system raises as the `OSError` that it is."""
        try:
            yield
        except PermissionError as error:
            raise Refused(f"refused; look at the credentials: {error}") from error
        except (OSError, *OURS):
            raise
        except Exception as error:  # of what the file system is made with: botocore, aiohttp, ...
            raise OSError(f"{type(error).__name__}: {error}") from error

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._bucket, key) if part) or "/"

    def _try(self, act: Any, *arguments: Any, **options: Any) -> Any:
        """Do it, and again where the store fails; what is refused or not there is so at once."""
        wait = FIRST_WAIT
        for left in reversed(range(self._tries)):
            try:
                with self.talking():
                    return act(*arguments, **options)
            except (FileNotFoundError, FileExistsError, Refused):
                raise
            except OSError:
                if not left:
                    raise
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("there is one try at least")
