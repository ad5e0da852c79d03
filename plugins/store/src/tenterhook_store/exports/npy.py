"""Rows as npy files, one for each array: what numpy maps."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from tenterhook_store.exports.arrays import (
    Narrow,
    Pieces,
    Progress,
    check_narrow,
    for_numpy,
    import_needed,
    write_rows,
)
from tenterhook_store.exports.folder import export_folder
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing


def to_npy(
    run: Readable,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    bfloat16: Narrow = "float32",
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the rows of a run as npy files, one for each array; return the folder.

    `token.npy`, `document.npy` and `position.npy` are `[rows]`; each layer is `[rows, features]`,
    in the file that `run.json` names for it. `numpy.load(path, mmap_mode="r")` reads them. npy
    has no bfloat16 and no float8: these become float32, which holds each of their values, or with
    `bfloat16="bits"` unsigned integers of their bits.

    All layers are written unless `layers` names some. Of a run that lacks units, the rows before
    the first that is missing are written, with a `UserWarning` where there are others;
    `missing="skip"` writes all that are there, and `missing="stop"` spares the warning. `run.json`
    says which rows they are (`rows`, ranges of row numbers) and which units are missing
    (`missing_units`, the first and last of each stretch). `progress(done, total)` is called with
    rows, counted over all arrays. It takes the memory of a few rows.

    Raises `PlaceTaken` where the folder holds something, which `overwrite=True`
    replaces if it is an export of a run, `NotWritable`, `NotCaptured`, `DamagedStore`,
    `BadSetting`, and `ImportError` without numpy.
    """
    check_narrow(bfloat16)
    np = import_needed("numpy")
    pieces = Pieces(run, layers, missing, progress)
    with pieces, export_folder(folder, run, pieces.part, "npy", overwrite=overwrite) as made:
        for each in pieces.arrays:
            convert = for_numpy(each.rows.dtype, bfloat16)
            kind = convert(torch.empty(0, dtype=each.rows.dtype)).numpy().dtype
            header = {"descr": kind.newbyteorder("<").str, "fortran_order": False}
            with (made.path / f"{each.file}.npy").open("wb") as file:
                shape = (pieces.part.rows, *each.rows.shape[1:])
                np.lib.format.write_array_header_2_0(file, {**header, "shape": shape})
                for piece in pieces.through(each):
                    write_rows(file, convert(piece))
        made.facts["files"] = {each.name: f"{each.file}.npy" for each in pieces.arrays}
        made.facts["bfloat16"] = bfloat16
    return Path(folder)
