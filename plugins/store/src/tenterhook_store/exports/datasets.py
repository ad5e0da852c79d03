"""Rows as a data set of Hugging Face: an Arrow file and what `datasets` lays around it."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tenterhook_store.errors import BadSetting
from tenterhook_store.exports.arrays import Pieces, Progress, RunArray, for_numpy, import_needed
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
    with export_folder(folder, run, pieces.part, "datasets", overwrite=overwrite) as made:
        columns = [_ArrowColumn(each, pyarrow) for each in pieces.arrays]
        schema = pyarrow.schema([pyarrow.field(each.name, each.type) for each in columns])
        features = datasets.Features.from_arrow_schema(schema)
        # What `save_to_disk` lays around the rows, of a data set without any.
        with _no_bars(datasets):
            empty = datasets.Dataset.from_dict({name: [] for name in features}, features=features)
            empty.save_to_disk(made.path)
        state = json.loads((made.path / "state.json").read_bytes())
        state["_fingerprint"] = secrets.token_hex(8)
        state["_data_files"] = [{"filename": ARROW_FILE}]
        (made.path / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        with (
            (made.path / ARROW_FILE).open("wb") as file,
            pyarrow.ipc.new_stream(file, features.arrow_schema) as stream,
        ):
            for start, stop in pieces.cut(ARROW_ROWS):
                read = [column.read(start, stop) for column in columns]
                batch = pyarrow.record_batch(read, names=[column.name for column in columns])
                stream.write_batch(batch.cast(features.arrow_schema))
                pieces.count((stop - start) * len(columns))
    return datasets.load_from_disk(os.fspath(folder))


class _ArrowColumn:
    """An array as a column of arrow."""

    def __init__(self, array: RunArray, pyarrow: Any) -> None:
        self.name = array.name
        self._rows = array.rows
        self._pyarrow = pyarrow
        self._convert = for_numpy(array.rows.dtype, "float32")
        empty = self._convert(torch.empty(0, dtype=array.rows.dtype))
        if empty.is_complex():
            raise BadSetting("layers", array.name, "of real numbers: arrow has no complex ones")
        kind = pyarrow.from_numpy_dtype(empty.numpy().dtype)
        self._width = array.rows.shape[1] if array.rows.ndim > 1 else None
        self.type = kind if self._width is None else pyarrow.list_(kind, self._width)

    def read(self, start: int, stop: int) -> Any:
        rows = self._convert(self._rows[start:stop])
        values = self._pyarrow.array(rows.flatten().numpy())
        if self._width is None:
            return values
        return self._pyarrow.FixedSizeListArray.from_arrays(values, self._width)


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
