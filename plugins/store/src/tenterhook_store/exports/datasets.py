"""Rows as a data set of Hugging Face: an Arrow file and what `datasets` lays around it."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from tenterhook_store.exports.arrays import Pieces, Progress, import_needed
from tenterhook_store.exports.arrow import arrow_batches, arrow_columns, arrow_schema
from tenterhook_store.exports.folder import export_folder
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing

ARROW_FILE = "data-00000-of-00001.arrow"
ARROW_ROWS = 1024
"""Rows of a record batch: what Hugging Face's `datasets` reads at once."""


def to_datasets(
    run: Readable,
    folder: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[str | int] | None = None,
    missing: Missing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Write the rows of a run as a data set of Hugging Face; return it, a `datasets.Dataset`.

    A row has `token`, `document`, `position` and a list of numbers for each layer, by its name.
    The data set is mapped from the folder, and `datasets.load_from_disk(folder)` opens it again.
    Arrow has no bfloat16 and no float8: these become float32, which holds each of their values.
    What else it takes and raises is as for `to_npy`; `ImportError` without `datasets`.
    """
    datasets, pyarrow = import_needed("datasets"), import_needed("pyarrow")
    pieces = Pieces(run, layers, missing, progress)
    with pieces, export_folder(folder, run, pieces.part, "datasets", overwrite=overwrite) as made:
        columns = arrow_columns(pieces, pyarrow)
        features = datasets.Features.from_arrow_schema(arrow_schema(columns, pyarrow))
        # What `save_to_disk` lays around the rows, of a data set without any. It has a fingerprint
        # from the start: without one dill pickles the table, which fails (on `MonthDayNano`) where
        # packages are installed outside of a folder `site-packages`, as by `pip --target`.
        table = datasets.table.InMemoryTable(features.arrow_schema.empty_table())
        with _no_bars(datasets):
            empty = datasets.Dataset(table, fingerprint=secrets.token_hex(8))
            empty.save_to_disk(made.path)
        state = json.loads((made.path / "state.json").read_bytes())
        state["_fingerprint"] = secrets.token_hex(8)
        state["_data_files"] = [{"filename": ARROW_FILE}]
        (made.path / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        with (
            (made.path / ARROW_FILE).open("wb") as file,
            pyarrow.ipc.new_stream(file, features.arrow_schema) as stream,
        ):
            for batch in arrow_batches(pieces, columns, ARROW_ROWS, pyarrow):
                stream.write_batch(batch.cast(features.arrow_schema))
    return datasets.load_from_disk(os.fspath(folder))


@contextlib.contextmanager
def _no_bars(datasets: Any) -> Iterator[None]:
    """Keep datasets from drawing on stderr, which is the caller's."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
