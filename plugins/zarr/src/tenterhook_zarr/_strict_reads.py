"""A store of zarr's for one array, in which all that is read is what was signed.

zarr believes each file that stands in its place, and reads a chunk or a shard that is not there as
fill values. Here the metadata are those that were checked, what is missing is an error, and each
shard is compared with what its commit record says: its index when it is opened, each chunk when it
is read. What stands in a chunk's last bytes is its checksum, and zarr compares the rest with that.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import attrs
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from tenterhook_store import DamagedStore
from tenterhook_zarr._checksums import CRC_BYTES
from tenterhook_zarr._signs import Signs, check_shard, chunk_ends, index_bytes

AT_ONCE = 16
"""How many checksums are asked for side by side."""

REMEMBERED = 1024
"""Of how many shards the index is in memory."""


@attrs.frozen(eq=False)
class _Shard:
    """A shard that was compared with its record."""

    index: bytes
    ends: list[int]
    """Where its chunks end."""
    chunks: bytes
    """Their checksums."""
    path: str

    def check(self, content: Any, first: int) -> None:
        """Raise `DamagedStore` unless the chunks of a part, which begins with one, are its own."""
        at = self.ends[first - 1] if first else 0
        for number in range(first, len(self.ends)):
            end = self.ends[number] - at
            if end > len(content):
                return
            signed = self.chunks[number * CRC_BYTES : (number + 1) * CRC_BYTES]
            if bytes(content[end - CRC_BYTES : end]) != signed:
                raise DamagedStore(self.path, f"chunk {number} is not what was written here")


class StrictReads(WrapperStore[Any]):
    """Reads another store; `FileNotFoundError` with the key of a shard that is not there."""

    def __init__(self, store: Any, signs: Signs) -> None:
        super().__init__(store)
        self._signs = signs
        self._shards: dict[int, _Shard] = {}

    def _with_store(self, store: Any) -> "StrictReads":
        return type(self)(store, self._signs)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what was signed, and nothing else."""
        parts = key.split("/")
        if parts[-1] == "zarr.json":
            return prototype.buffer.from_bytes(self._signs.metadata)
        if "c" not in parts:
            return None  # what other versions of the format have
        number = int(parts[-1 if self._signs.layout.features is None else -2])
        shard = self._shards.get(number) or await self._opened(key, number)
        if isinstance(byte_range, SuffixByteRequest) and byte_range.suffix == len(shard.index):
            return prototype.buffer.from_bytes(shard.index)
        first = last = 0
        if isinstance(byte_range, RangeByteRequest):
            first = sum(end <= byte_range.start for end in shard.ends)
            begin = shard.ends[first - 1] if first else 0
            last = next((end for end in shard.ends if end >= byte_range.end), shard.ends[-1])
            some = await self._get(key, prototype, RangeByteRequest(begin, last))
            shard.check(some.as_numpy_array(), first)
            part: Buffer = some[byte_range.start - begin : byte_range.end - begin]
            return part
        whole: Buffer = await self._get(key, prototype, None)
        shard.check(whole.as_numpy_array(), 0)
        return whole

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return the same as `get`, of several."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def _get(self, key: str, prototype: BufferPrototype, part: ByteRequest | None) -> Any:
        found = await super().get(key, prototype, part)
        if found is None:
            raise FileNotFoundError(key)
        return found

    async def _opened(self, key: str, number: int) -> _Shard:
        """Compare a shard with its record, and remember it."""
        signs, layout = self._signs, self._signs.layout
        signed, path = signs.shard(number), signs.path(number)
        signs.look(number)
        prototype = default_buffer_prototype()
        suffix = SuffixByteRequest(index_bytes(layout) + CRC_BYTES)
        index = (await self._get(key, prototype, suffix)).to_bytes()
        ends = chunk_ends(index, layout, number, signed.bytes, path)
        chunks = bytes.fromhex(signed.chunks) or await self._checksums(key, ends)
        check_shard(signed, index[:-CRC_BYTES], chunks, path)
        shard = self._shards[number] = _Shard(index, ends, chunks, path)
        for oldest in list(self._shards)[:-REMEMBERED]:
            self._shards.pop(oldest, None)
        return shard

    async def _checksums(self, key: str, ends: list[int]) -> bytes:
        """Return the checksums of all chunks, from the file: older records have none of them."""
        prototype, waiting = default_buffer_prototype(), asyncio.Semaphore(AT_ONCE)

        async def one(end: int) -> bytes:
            async with waiting:
                found = await self._get(key, prototype, RangeByteRequest(end - CRC_BYTES, end))
            return bytes(found.to_bytes())

        return b"".join(await asyncio.gather(*map(one, ends)))
