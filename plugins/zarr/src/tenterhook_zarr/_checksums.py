"""crc32c, as zarr has it and as our records write it."""

import struct
from typing import Any

import google_crc32c

CRC_BYTES = 4


def crc32c(content: Any) -> bytes:
    """Return the checksum that follows a chunk."""
    return struct.pack("<I", google_crc32c.value(content))


def checksum(content: Any) -> str:
    """Return the checksum as our records write it, 8 hexadecimal digits."""
    return f"{google_crc32c.value(content):08x}"
