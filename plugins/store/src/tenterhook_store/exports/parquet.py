"""Rows as a Parquet file, which pandas, polars, duckdb and Spark read."""

import os
from collections.abc import Sequence
from pathlib import Path

from tenterhook_store.exports.arrays import PIECE_BYTES, Pieces, Progress, import_needed
from tenterhook_store.exports.arrow import arrow_batches, arrow_columns, arrow_schema
from tenterhook_store.exports.folder import export_folder
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing

FILE = "rows.parquet"

MOST_ROWS = 2**16
"""Rows of a row group at most: as much is read at once."""


def to_parquet(
    run: Readable,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the rows of a run as a Parquet file; return its path, `folder/rows.parquet`.

    A row has `token`, `document`, `position` and a list of numbers for each layer, by its name.
    bfloat16 and float8 become float32, which holds each of their values. What else it takes and
    raises is as for `to_npy`; `ImportError` without `pyarrow`.
    """
    pyarrow, parquet = import_needed("pyarrow"), import_needed("pyarrow.parquet", "pyarrow")
    pieces = Pieces(run, layers, missing, progress)
    columns = arrow_columns(pieces, pyarrow)
    rows = min(MOST_ROWS, max(1, PIECE_BYTES // sum(each.row_bytes for each in pieces.arrays)))
    with pieces, export_folder(folder, run, pieces.part, "parquet", overwrite=overwrite) as made:
        made.facts["files"] = [FILE]
        schema = arrow_schema(columns, pyarrow)
        with parquet.ParquetWriter(made.path / FILE, schema) as writer:
            for batch in arrow_batches(pieces, columns, rows, pyarrow):
                writer.write_batch(batch, row_group_size=rows)
    return Path(folder) / FILE
