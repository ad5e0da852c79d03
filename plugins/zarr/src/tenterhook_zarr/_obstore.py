"""Object stores through obstore."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from obstore import exceptions
from obstore.store import MemoryStore, from_url

from tenterhook_zarr._object_protocol import NO_BUCKET, Refused
from tenterhook_zarr._signs import Signs
from tenterhook_zarr._urls import ObjectUrl

FORKED = (
    "this process was forked from one that talked to an object store, which it cannot do then; "
    "start processes by 'spawn' or 'forkserver', as a DataLoader does with multiprocessing_context"
)

_IN_MEMORY: dict[str, Any] = {}
"""The buckets of `memory://`, as long as the process lives."""

CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
}

NO_BUCKET_MESSAGES = ("nosuchbucket", "containernotfound", "bucket does not exist")
"""What servers say where there is none, in small letters."""

ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Where the environment says which server to ask, the first that is set."""


class ObstoreObjects:
    """A bucket, through obstore, which takes credentials from the usual environment."""

    def __init__(self, url: ObjectUrl, *, retries: int, timeout: float) -> None:
        self._scheme = url.scheme
        if url.scheme == "memory":
            self._store: Any = _IN_MEMORY.setdefault(url.bucket, MemoryStore())
            return
        named = (os.environ.get(name, "") for name in ENDPOINTS[url.scheme])
        endpoint = next(filter(None, named), "")
        with self.talking():
            self._store = from_url(
                f"{url.scheme}://{url.bucket}",
                client_options={
                    "timeout": timedelta(seconds=timeout),
                    "allow_http": endpoint.startswith("http://"),
                },
                retry_config={
                    "max_retries": retries,
                    "retry_timeout": timedelta(seconds=(retries + 1) * timeout),
                    "backoff": {
                        "init_backoff": timedelta(milliseconds=100),
                        "max_backoff": timedelta(seconds=min(15, timeout)),
                        "base": 2,
                    },
                },
            )

    def get(self, key: str, most: int) -> bytes:
        """Return an object; of one that is longer than `most` bytes, a byte more."""
        with self.talking():
            found = self._store.get(key)
            if found.meta["size"] > most:
                return bytes(self._store.get_range(key, start=0, end=most + 1))
            return bytes(found.bytes())

    def size(self, key: str) -> int:
        """Return how many bytes an object has."""
        with self.talking():
            return int(self._store.head(key)["size"])

    def put(self, key: str, content: bytes | Path, once: bool) -> bool:
        """Put an object in one request; `False` if `once` and there is one."""
        with self.talking():
            mode = "create" if once else "overwrite"
            try:
                self._store.put(key, content, mode=mode, use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return False
        return True

    def names(self, prefix: str) -> list[str]:
        """Return the next parts of all keys below a prefix, each once."""
        with self.talking():
            found = self._store.list_with_delimiter(prefix or None)
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return [path.rpartition("/")[2] for path in paths]

    def keys(self, prefix: str) -> list[str]:
        """Return all keys below a prefix."""
        with self.talking():
            return [each["path"] for each in self._store.list(prefix or None).collect()]

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        try:
            with self.talking():
                self._store.delete(key)
        except FileNotFoundError:
            return

    def zarr_store(self, prefix: str, signs: Signs) -> Any:
        """Return a store of zarr's that reads below a prefix what was signed."""
        from zarr.storage import ObjectStore, StorePath

        from tenterhook_zarr._strict_reads import StrictReads

        return StorePath(StrictReads(ObjectStore(self._store, read_only=True), signs), prefix)

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Raise what obstore raises as an `OSError`."""
        _Talk.check()
        try:
            yield
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise Refused(f"refused; {self._credentials()}: {_first(error)}") from error
        except exceptions.NotFoundError as error:
            raise FileNotFoundError(str(error)) from error
        except exceptions.BaseError as error:
            raise OSError(f"{self._hint(error)}{_first(error)}") from error

    def _credentials(self) -> str:
        names = CREDENTIALS.get(self._scheme, ())
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
        return f"look at {' and '.join(names)}"

    def _hint(self, error: exceptions.BaseError) -> str:
        text = str(error).lower()
        if any(word in text for word in NO_BUCKET_MESSAGES):
            return f"{NO_BUCKET}: "
        if any(word in text for word in ("credential", "169.254.169.254", "latest/api/token")):
            return f"no credentials; {self._credentials()}: "
        return ""


class _Talk:
    """Whether obstore's threads were started, and whether they were left behind by a fork.

    A request in a process that has lost them waits for ever.
    """

    began = False
    is_lost = False

    @classmethod
    def check(cls) -> None:
        """Raise `OSError` where a request would wait for ever."""
        if cls.is_lost:
            raise OSError(FORKED)
        cls.began = True

    @classmethod
    def forked(cls) -> None:
        """Note that this is another process now."""
        cls.is_lost = cls.began


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Talk.forked)


def _first(error: BaseException) -> str:
    """Return what an error of obstore says, without its source text."""
    return str(error).partition("\n\nDebug source")[0]
