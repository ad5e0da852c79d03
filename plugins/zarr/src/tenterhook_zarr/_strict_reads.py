"""A store of zarr's in which what is missing is an error.

zarr reads a chunk or a shard that is not there as fill values. The rows that we read are all
committed, so a shard that is missing was there and is gone.
"""

from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore


class StrictReads(WrapperStore[Any]):
    """Reads another store; `FileNotFoundError` with the key of a shard that is not there."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what the other store does, but for what is missing and no metadata."""
        found = await super().get(key, prototype, byte_range)
        if found is None and "c" in key.split("/"):
            raise FileNotFoundError(key)
        return found
