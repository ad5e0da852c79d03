"""Records: JSON files of ours that carry their own checksum.

The key `crc32c` of a record is the checksum of the file without that key. A record is always
written the same way, so that not even a blank of it can change unnoticed.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from tenterhook_store import DamagedStore
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._layout import to_json

SEAL = "crc32c"

_SEAL_LINE = re.compile(rb',?\n  "crc32c": "([0-9a-f]{8})"(,?)(?=\n)')


def sealed(facts: Mapping[str, Any]) -> bytes:
    """Return a record of plain JSON values."""
    # As they come back: keys that are no strings are sorted otherwise.
    plain = json.loads(json.dumps(dict(facts)))
    return to_json({**plain, SEAL: checksum(to_json(plain))})


def unsealed(record: bytes, path: str) -> dict[str, Any]:
    """Return what a record says; `DamagedStore` where it is not what was written."""
    plain, seal = _without_seal(record)
    if seal == checksum(plain):
        return dict(json.loads(plain))
    try:
        found = json.loads(record)
        seal = found.pop(SEAL)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedStore(path, f"this is no record of ours ({error!r})") from error
    if seal != checksum(to_json(found)) or record != to_json({**found, SEAL: seal}):
        raise DamagedStore(path, "its checksum says that it is not what was written")
    return dict(found)


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
