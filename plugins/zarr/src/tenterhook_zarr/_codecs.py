"""How chunks are compressed, if at all: as zarr's own codecs do it."""

from collections.abc import Callable
from typing import Any

import numpy as np

Encode = Callable[["np.ndarray[Any, np.dtype[np.uint8]]"], Any]

ZSTD_LEVEL = 3
BLOSC_LEVEL = 5


def codec_metadata(codec: str, itemsize: int) -> list[dict[str, Any]]:
    """Return what `zarr.json` says of a codec, between the bytes and their checksum."""
    settings: dict[str, dict[str, Any]] = {
        "zstd": {"level": ZSTD_LEVEL, "checksum": False},
        "blosc": {
            "cname": "lz4",
            "clevel": BLOSC_LEVEL,
            "shuffle": "bitshuffle",
            "typesize": itemsize,
            "blocksize": 0,
        },
    }
    return [] if codec == "none" else [{"name": codec, "configuration": settings[codec]}]


def encoder(codec: str, dtype: "np.dtype[Any]") -> Encode | None:
    """Return what compresses the bytes of a chunk; `None` where nothing does."""
    if codec == "zstd":
        from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

        return Zstd(level=ZSTD_LEVEL).encode  # type: ignore[no-any-return]
    if codec == "blosc":
        from numcodecs.blosc import BITSHUFFLE, Blosc  # type: ignore[import-untyped]

        blosc = Blosc(cname="lz4", clevel=BLOSC_LEVEL, shuffle=BITSHUFFLE)
        return lambda chunk: blosc.encode(chunk.view(dtype))
    return None
