"""What the records of a run say, as types.

A commit record is the signature of a unit: of the plan that it was made with, of the metadata of
each array, and of each shard. Readers believe these, and no file because it stands in its place.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
from attrs import validators

_checksum = validators.matches_re(r"[0-9a-f]{8}")


@attrs.frozen
class SignedShard:
    """One file of rows."""

    shard: int
    bytes: int
    crc32c: str = attrs.field(validator=_checksum)
    """The checksum of the checksums of its chunks, in order, and of its index."""

    chunks: str = attrs.field(default="", validator=validators.matches_re(r"([0-9a-f]{8})*"))
    """The checksums of its chunks, as they stand in the file. Records of earlier versions have
    none, and the file's own are compared with `crc32c`."""


@attrs.frozen
class SignedArray:
    """What a unit has in one array."""

    metadata: str = attrs.field(validator=_checksum)
    """The checksum of the array's `zarr.json`."""

    shards: tuple[SignedShard, ...]


@attrs.frozen
class SignedTensors:
    """The file of a unit's small tensors."""

    bytes: int
    crc32c: str = attrs.field(validator=_checksum)
    names: tuple[str, ...]


@attrs.frozen
class CommitRecord:
    """The record of a unit that is committed."""

    format: int
    unit: int
    rows: tuple[int, int]
    plan: str
    """The checksum of `plan.json`."""

    arrays: dict[str, SignedArray]
    kept: SignedTensors | None = None


@attrs.frozen
class DroppedRecord:
    """Says that the rows of a unit are gone."""

    format: int
    unit: int
    plan: str
    """The checksum of `plan.json`."""


@attrs.frozen
class SharedRecord:
    """What is shared with all of a run under one name."""

    format: int
    plan: str
    """The checksum of `plan.json`."""

    facts: dict[str, Any]
    pieces: tuple[SignedTensors, ...]


@attrs.frozen
class TensorRecord:
    """Which array is a tensor now."""

    name: str
    array: str = attrs.field(validator=validators.matches_re(r"array-[0-9a-f]{1,64}"))
    metadata: str = attrs.field(validator=_checksum)


@attrs.frozen
class Note:
    """An attribute of a run."""

    name: str
    value: Any


def _is_time(instance: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is not None:
        datetime.fromisoformat(value)


@attrs.frozen
class _Failure:
    error: str


@attrs.frozen
class SessionFacts:
    """What is read of the record of a process; it may say more."""

    start: str | None = attrs.field(default=None, validator=_is_time)
    seen: str | None = attrs.field(default=None, validator=_is_time)
    end: str | None = attrs.field(default=None, validator=_is_time)
    host: str | None = None
    process: int | None = None
    is_worker: bool | None = None
    versions: dict[str, Any] = attrs.field(factory=dict)
    git: dict[str, Any] | None = None
    failed: dict[str, _Failure] = attrs.field(factory=dict)

    @failed.validator
    def _check_failed(self, _: object, failed: Mapping[str, _Failure]) -> None:
        for number in failed:
            if not re.fullmatch(r"\d{1,19}", number):
                raise ValueError(f"{number[:30]!r} is no number of a unit")


# Sums of squares stay sums: none is below 0, and adding up those of all units does not overflow.
_size = [validators.ge(0.0), validators.le(1e300)]


@attrs.frozen
class _Int8Facts:
    squared_error: float = attrs.field(validator=_size)
    squared: float = attrs.field(validator=_size)
    max_error: float = attrs.field(validator=_size)
    rows_not_finite: int


@attrs.frozen
class _RangeFacts:
    values: int
    too_large: int
    too_small: int


@attrs.frozen
class UnitFacts:
    """What is read of the log of a unit; it may say more."""

    unit: int
    rows: int
    start: str | None = attrs.field(default=None, validator=_is_time)
    end: str | None = attrs.field(default=None, validator=_is_time)
    int8: dict[str, _Int8Facts] = attrs.field(factory=dict)
    out_of_range: dict[str, _RangeFacts] = attrs.field(factory=dict)
