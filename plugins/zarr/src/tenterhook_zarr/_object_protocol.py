"""What a store needs of an object store, and how that refuses.

The files that talk to one, through obstore or fsspec, know this file and not who uses them.
"""

import contextlib
from pathlib import Path
from typing import Any, Protocol

from tenterhook_zarr._signs import Signs

NO_BUCKET = "there is no such bucket; make it first, or correct its name"


class Refused(OSError):
    """The object store lets nobody in, or not us."""


class Objects(Protocol):
    """What talks to an object store. Keys are slash-separated.

    What fails raises `OSError`: `FileNotFoundError` where there is no object, `Refused` where we
    may not, another kind for what failed after the tries that were allowed.
    """

    def get(self, key: str, most: int) -> bytes:
        """Return an object; what is longer than `most` bytes may be cut after some more."""

    def size(self, key: str) -> int:
        """Return how many bytes an object has."""

    def put(self, key: str, content: bytes | Path, once: bool) -> bool:
        """Put an object, from memory or a local file; `False` if `once` and there is one."""

    def names(self, prefix: str) -> list[str]:
        """Return the next parts of all keys below a prefix, each once."""

    def keys(self, prefix: str) -> list[str]:
        """Return all keys below a prefix."""

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    def zarr_store(self, prefix: str, signs: Signs) -> Any:
        """Return a store of zarr's that reads below a prefix what was signed."""

    def talking(self) -> contextlib.AbstractContextManager[None]:
        """Raise what such a store raises as the `OSError` that it is."""
