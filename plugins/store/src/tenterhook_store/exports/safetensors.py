"""Rows as safetensors files, of some of the rows each."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenterhook_store.errors import BadSetting
from tenterhook_store.exports.arrays import (
    Pieces,
    Progress,
    RunArray,
    import_needed,
    write_rows,
)
from tenterhook_store.exports.folder import export_folder
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing, RowRanges
from tenterhook_store.tensors import dtype_name

FILE_BYTES = 2**30

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}
"""The dtypes that the format has, by torch's names."""


def to_safetensors(
    run: Readable,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    file_bytes: int = FILE_BYTES,
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the rows of a run as safetensors files of some of the rows each; return the folder.

    Every file has `token`, `document`, `position` and the layers, by their names, of the same
    rows, bit for bit in the dtype that was stored. `run.json` says which of the rows written,
    counted from 0, are in which file; the metadata in a file says which numbers they have in the
    run. No file is larger than `file_bytes`, its header and a single row aside.

    Raises `BadSetting` for `file_bytes` below 1 and for a dtype that the format does not have. What
    else it takes and raises is as for `to_npy`.
    """
    if file_bytes < 1:
        raise BadSetting("file_bytes", file_bytes, "a whole number, 1 or more")
    import_needed("numpy")
    pieces = Pieces(run, layers, missing, progress)
    # Wide numbers first, so that each array begins where its numbers may.
    arrays = sorted(pieces.arrays, key=lambda each: -each.rows.dtype.itemsize)
    for each in arrays:
        if dtype_name(each.rows.dtype) not in DTYPES:
            raise BadSetting("layers", each.name, f"of a dtype of {', '.join(DTYPES)}")
    row_bytes = sum(each.row_bytes for each in arrays)
    step = max(1, file_bytes // row_bytes)
    part = pieces.part
    starts = range(0, max(part.rows, 1), step)
    with pieces, export_folder(folder, run, part, "safetensors", overwrite=overwrite) as made:
        files = made.facts["files"] = {}
        for number, start in enumerate(starts):
            stop = min(start + step, part.rows)
            name = f"rows-{number:05d}-of-{len(starts):05d}.safetensors"
            files[name] = [start, stop]
            with (made.path / name).open("wb") as file:
                file.write(_header(arrays, part, start, stop, run.id))
                for each in arrays:
                    for piece in pieces.through(each, start, stop):
                        write_rows(file, piece)
    return Path(folder)


def _header(
    arrays: Sequence[RunArray], part: RowRanges, start: int, stop: int, run_id: str
) -> bytes:
    """Return the length of the header and the header, as the format's page has it.

    https://github.com/huggingface/safetensors#format
    """
    rows = ",".join(f"{first}:{last}" for first, last in part.stretches(start, stop)) or "0:0"
    header: dict[str, Any] = {"__metadata__": {"run": run_id, "rows": rows}}
    at = 0
    for each in arrays:
        size = (stop - start) * each.row_bytes
        header[each.name] = {
            "dtype": DTYPES[dtype_name(each.rows.dtype)],
            "shape": [stop - start, *each.rows.shape[1:]],
            "data_offsets": [at, at + size],
        }
        at += size
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content
