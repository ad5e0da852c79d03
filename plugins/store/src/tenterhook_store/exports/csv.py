"""Rows as a CSV file, a column for each feature: for spreadsheets, R, and the eye."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tenterhook_store.exports.arrays import PIECE_BYTES, Pieces, Progress, import_needed
from tenterhook_store.exports.arrow import ArrowColumn, arrow_columns
from tenterhook_store.exports.folder import export_folder
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing

FILE = "rows.csv"


def to_csv(
    run: Readable,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the rows of a run as a CSV file; return its path, `folder/rows.csv`.

    The columns are `token`, `document`, `position` and, for each layer, its features by their
    numbers: `LAYER[0]`, `LAYER[1]`. The first line names them. A number has as many digits as it
    needs to be read again as the same float; bfloat16, float16 and float8 are written as float32,
    which holds each of their values. What else it takes and raises is as for `to_npy`;
    `ImportError` without `pyarrow`.
    """
    pyarrow, csv = import_needed("pyarrow"), import_needed("pyarrow.csv", "pyarrow")
    pieces = Pieces(run, layers, missing, progress)
    columns = arrow_columns(pieces, pyarrow)
    fields = [field for column in columns for field in _fields(column, pyarrow)]
    rows = max(1, PIECE_BYTES // sum(each.row_bytes for each in pieces.arrays))
    with pieces, export_folder(folder, run, pieces.part, "csv", overwrite=overwrite) as made:
        made.facts["files"] = [FILE]
        schema = pyarrow.schema(fields)
        with csv.CSVWriter(made.path / FILE, schema) as writer:
            for start, stop in pieces.cut(rows):
                read = [one for each in columns for one in _arrays(each, start, stop, pyarrow)]
                writer.write_batch(pyarrow.record_batch(read, schema=schema))
                pieces.count((stop - start) * len(columns))
    return Path(folder) / FILE


def _fields(column: ArrowColumn, pyarrow: Any) -> Iterator[Any]:
    number = _written(column, pyarrow)
    if column.width is None:
        yield pyarrow.field(column.name, number)
        return
    for feature in range(column.width):
        yield pyarrow.field(f"{column.name}[{feature}]", number)


def _arrays(column: ArrowColumn, start: int, stop: int, pyarrow: Any) -> Iterator[Any]:
    values, number = column.values(start, stop), _written(column, pyarrow)
    for each in [values] if column.width is None else values.T:
        yield pyarrow.array(each).cast(number)


def _written(column: ArrowColumn, pyarrow: Any) -> Any:
    """Return the type that is written: float16 has no text of its own."""
    return pyarrow.float32() if column.number == pyarrow.float16() else column.number
