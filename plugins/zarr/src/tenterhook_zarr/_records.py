"""Records: JSON files of ours that carry their own checksum.

The key `crc32c` of a record is the checksum of the file without that key. A record is always
written the same way, so that not even a blank of it can change unnoticed. The checksum tells what
was changed by accident; what a record says may still be anything, and is structured before use.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from tenterhook_store import DamagedStore
from tenterhook_store.structuring import structured
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._record_json import record_json

T = TypeVar("T")

SEAL = "crc32c"

_SEAL_LINE = re.compile(rb',?\n  "crc32c": "([0-9a-f]{8})"(,?)(?=\n)')


def sealed(facts: Mapping[str, Any]) -> bytes:
    """Return a record of plain JSON values."""
    # As they come back: keys that are no strings are sorted otherwise.
    plain = json.loads(json.dumps(_finite(dict(facts))))
    return to_json({**plain, SEAL: checksum(to_json(plain))})


def unsealed(record: bytes, path: str) -> dict[str, Any]:
    """Return what a record says; `DamagedStore` where it is not what was written."""
    plain, seal = _without_seal(record)
    if seal == checksum(plain):
        return _object(plain, path)
    found = _object(record, path)
    try:
        seal = found.pop(SEAL)
    except LookupError as error:
        raise DamagedStore(path, f"this is no record of ours ({error!r})") from error
    if seal != checksum(to_json(found)) or record != to_json({**found, SEAL: seal}):
        raise DamagedStore(path, "its checksum says that it is not what was written")
    return found


def record_of(kind: type[T], facts: Mapping[str, Any], path: str, *, more: bool = False) -> T:
    """Return what a record says as an attrs class; `DamagedStore` where it cannot be one.

    With `more` it may have keys that the class has not.
    """
    try:
        return structured(kind, facts, forbid_extra=not more)
    except ValueError as error:
        raise DamagedStore(path, f"this is no record of ours ({error})") from error


def _object(content: bytes, path: str) -> dict[str, Any]:
    found = record_json(content, path)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise DamagedStore(path, f"this is no record of ours (a {kind} and no object)")
    return found


def _finite(value: Any) -> Any:
    """Return plain JSON values with `null` for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _without_seal(record: bytes) -> tuple[bytes, str]:
    """Return a record as it was without its seal, and what the seal says.

    Nothing else of a record begins a line with two blanks and that name, and writing it out again
    to compare takes ten times as long.
    """
    found = _SEAL_LINE.search(record)
    if found is None:
        return record, ""
    start, end = found.span()
    if found[2] and record[start : start + 1] == b",":  # between two others: one comma stays
        end -= 1
    return record[:start] + record[end:], found[1].decode()
