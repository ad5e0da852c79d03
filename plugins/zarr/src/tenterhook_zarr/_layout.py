"""Where the rows of an array are: its chunks, its shards, and the metadata that says so.

Plain zarr format 3. The sharding codec's name in it is `sharding_indexed`; a shard is one file of
chunks, each followed by its crc32c, with the index of the chunks at the end.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import attrs

from tenterhook_store import DamagedStore
from tenterhook_zarr._checksums import CRC_BYTES
from tenterhook_zarr._codecs import codec_metadata
from tenterhook_zarr._dtypes import Stored, stored_as
from tenterhook_zarr._record_json import record_json

CHUNK_ROWS = 256
"""Rows of a layer that are read at once."""

NUMBER_CHUNK_ROWS = 8192
"""The same for arrays of one number per row, which would be mostly checksums otherwise."""

SHARD_BYTES = 128 * 2**20
"""The size that shards stay below, where a unit of the plan is larger."""

INDEX_ENTRY_BYTES = 16


@attrs.frozen(kw_only=True)
class ArrayLayout:
    """One array of rows: `[rows, features]`, or `[rows]` where `features` is `None`."""

    rows: int
    features: int | None
    dtype: str
    """The torch dtype's name."""
    chunk_rows: int
    shard_rows: int
    codec: str = "none"
    """What compresses the chunks: `none`, `zstd` or `blosc`."""

    @classmethod
    def plan(
        cls,
        *,
        rows: int,
        features: int | None,
        dtype: str,
        rows_per_unit: int,
        codec: str = "none",
    ) -> "ArrayLayout":
        """Choose chunks and shards such that a unit is whole shards and a shard whole chunks."""
        wanted = NUMBER_CHUNK_ROWS if features is None else CHUNK_ROWS
        chunk = largest_divisor(rows_per_unit, wanted)
        row_bytes = (features or 1) * stored_as(dtype).numpy.itemsize
        shard = rows_per_unit
        while shard * row_bytes > SHARD_BYTES and shard % (2 * chunk) == 0:
            shard //= 2
        return cls(
            rows=rows,
            features=features,
            dtype=dtype,
            chunk_rows=chunk,
            shard_rows=shard,
            codec=codec,
        )

    @property
    def stored(self) -> Stored:
        """How its values are stored."""
        return stored_as(self.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return (self.rows,) if self.features is None else (self.rows, self.features)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return (self.features or 1) * self.stored.numpy.itemsize

    def is_as_planned(self, planned: "ArrayLayout", rows_per_unit: int) -> bool:
        """Say whether it differs from a plan's in the sizes of chunks and shards alone, if at all.

        A unit is whole shards, and a shard whole chunks.
        """
        sizes = self.chunk_rows, self.shard_rows
        if not all(type(each) is int and 1 <= each <= rows_per_unit for each in sizes):
            return False
        fits = rows_per_unit % self.shard_rows == 0 == self.shard_rows % self.chunk_rows
        same = attrs.evolve(planned, chunk_rows=self.chunk_rows, shard_rows=self.shard_rows)
        return fits and self == same

    def shard_key(self, shard: int) -> str:
        """Return the name of a shard's file in the array's folder."""
        return f"c/{shard}" if self.features is None else f"c/{shard}/0"

    def chunks_in(self, rows: int) -> int:
        """Return how many chunks so many rows at the start of a shard fill or begin."""
        return -(-rows // self.chunk_rows)

    def rows_in(self, shard: int) -> int:
        """Return how many rows a shard has."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)

    def shard_bytes(self, shard: int) -> int:
        """Return the size that a shard's file must have, where nothing compresses its chunks."""
        rows = self.rows_in(shard)
        chunk = self.chunk_rows * self.row_bytes + CRC_BYTES
        index = self.shard_rows // self.chunk_rows * INDEX_ENTRY_BYTES + CRC_BYTES
        return self.chunks_in(rows) * chunk + index

    def metadata(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the array's `zarr.json` says."""
        width = [] if self.features is None else [self.features]
        plain = {"name": "bytes", "configuration": {"endian": "little"}}
        if self.stored.numpy.itemsize == 1:
            plain = {"name": "bytes"}
        sharding = {
            "chunk_shape": [self.chunk_rows, *width],
            "codecs": [
                plain,
                *codec_metadata(self.codec, self.stored.numpy.itemsize),
                {"name": "crc32c"},
            ],
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.stored.zarr,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.shard_rows, *width]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.stored.fill,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["row", "feature"][: len(self.shape)],
            "attributes": {**attributes, "torch_dtype": self.dtype},
        }

    @classmethod
    def read(cls, metadata: bytes, path: str) -> "ArrayLayout":
        """Read what `metadata` wrote; `DamagedStore` where it is something else."""
        found = record_json(metadata, path)
        try:
            shape = found["shape"]
            (sharding,) = found["codecs"]
            _, *between, _ = sharding["configuration"]["codecs"]
            return cls(
                rows=shape[0],
                features=shape[1] if len(shape) > 1 else None,
                dtype=found["attributes"]["torch_dtype"],
                chunk_rows=sharding["configuration"]["chunk_shape"][0],
                shard_rows=found["chunk_grid"]["configuration"]["chunk_shape"][0],
                codec=between[0]["name"] if between else "none",
            )
        except (ValueError, LookupError, TypeError) as error:
            reason = f"this is not the metadata of an array of ours ({error!r})"
            raise DamagedStore(path, reason) from error


@functools.cache
def largest_divisor(number: int, most: int) -> int:
    """Return the largest whole number that divides another and is `most` or less."""
    return next(each for each in range(min(number, most), 0, -1) if number % each == 0)


def group_metadata(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a group's `zarr.json` says."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def to_json(value: Any) -> bytes:
    """Return JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
