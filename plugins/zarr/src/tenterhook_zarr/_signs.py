"""What was signed of one array: its metadata, and each of its shards.

Who reads rows compares each shard with its sign when it is opened, before a row is handed out.
"""

import struct
from collections.abc import Callable

import attrs

from tenterhook_store import DamagedStore
from tenterhook_zarr._checksums import CRC_BYTES, checksum, crc32c
from tenterhook_zarr._commits import SignedShard
from tenterhook_zarr._layout import INDEX_ENTRY_BYTES, ArrayLayout

ABSENT = 2**64 - 1
"""What stands in an index for a chunk that there is not."""


@attrs.frozen(eq=False)
class Signs:
    """What readers of an array believe."""

    layout: ArrayLayout
    metadata: bytes
    """The array's `zarr.json`, which is that of the plan."""

    shard: Callable[[int], SignedShard]
    """Returns what was signed of a shard; `DamagedStore` where its unit's record is none."""

    path: Callable[[int], str]
    """Returns a shard's file, as people find it."""

    look: Callable[[int], None]
    """Raises `DamagedStore` where a shard's file cannot be read as one."""


def check_shard(signed: SignedShard, index: bytes, chunks: bytes, path: str) -> None:
    """Raise `DamagedStore` unless index and checksums of chunks are those that were signed.

    `index` is without its checksum.
    """
    if checksum(chunks + index) != signed.crc32c:
        raise DamagedStore(path, "its checksums are not what was written and committed here")


def chunk_ends(content: bytes, layout: ArrayLayout, shard: int, size: int, path: str) -> list[int]:
    """Return where each chunk of a shard ends, from its index; `DamagedStore` for another one.

    `size` is that of the file. Chunks follow each other, as we write them.
    """
    index = content[:-CRC_BYTES]
    if len(index) != index_bytes(layout) or crc32c(index) != content[-CRC_BYTES:]:
        raise DamagedStore(path, "its index of chunks is not what was written")
    entries = list(struct.iter_unpack("<2Q", index))
    there = layout.chunks_in(layout.rows_in(shard))
    ends, end = list[int](), 0
    for start, length in entries[:there]:
        if start != end or not CRC_BYTES <= length <= size:
            raise DamagedStore(path, "the chunks of its index do not follow each other")
        end += length
        ends.append(end)
    if end + len(content) != size or set(entries[there:]) - {(ABSENT, ABSENT)}:
        reason = f"its chunks end at byte {end} and should end at {size - len(content)}"
        raise DamagedStore(path, reason)
    return ends


def index_bytes(layout: ArrayLayout) -> int:
    """Return how long the index of a shard is, without its checksum."""
    return layout.shard_rows // layout.chunk_rows * INDEX_ENTRY_BYTES
