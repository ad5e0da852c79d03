"""The rows of a run as a map-style dataset: by number, for samplers of one's own."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch.utils.data import Dataset

from tenterhook_store.columns import Also, Batch, Columns
from tenterhook_store.readable import Readable
from tenterhook_store.row_index import row_index
from tenterhook_store.row_ranges import Missing, RowRanges


@final
class RowDataset(Dataset[Any]):
    """The rows of a run by number; `run.dataset` makes one.

    A row is a tensor `[features]` where one layer was asked for and nothing beside it, otherwise a
    dict of tensors by name. `dataset[5]` is one row; `dataset[[5, 2]]` or `dataset[10:20]` are
    several in one tensor `[rows, features]`, or in a dict of tensors. Tensors are on the CPU, in
    the dtype that was stored (int8 rows with a scale are float32), and the caller's own.
    """

    def __init__(
        self,
        run: Readable,
        layers: str | int | Sequence[str | int],
        *,
        also: Sequence[Also] = (),
        rows: slice = slice(None),
        missing: Missing | None = None,
        check: bool = True,
    ) -> None:
        """See `Run.dataset`."""
        self.run = run
        self._part = run.ranges.part(rows, missing)
        self._settings = (layers, tuple(also), self._part)
        self._check = check
        self._columns: Columns | None = Columns(run, *self._settings)

    def __len__(self) -> int:
        """How many rows there are."""
        return self._part.rows

    def __getitem__(self, key: Any) -> Batch:
        """Read one row, or several, by an int, a slice, a mask, or a list or array of ints.

        Raises `RowOutOfRange` and `WrongIndex`, each an `IndexError`.
        """
        columns = self._open()
        found = row_index(key, (len(self),), RowRanges.whole(len(self)), self.run.id).rows
        if isinstance(found, int):
            taken = columns.take(torch.tensor([found]), check=self._check)
            return columns.batch([each[0] for each in taken])
        if isinstance(found, range):
            found = torch.arange(found.start, found.stop, found.step)
        return columns.batch(columns.take(found, check=self._check))

    def __getitems__(self, rows: list[int]) -> list[Batch]:
        """Read rows at once; `DataLoader` asks for a batch so, and stacks it again.

        `DataLoader(dataset, batch_size=None, sampler=BatchSampler(...))` spares the stacking.
        """
        columns = self._open()
        some = columns.take(torch.tensor(rows), check=self._check)
        return [columns.batch(list(row)) for row in zip(*(t.unbind() for t in some), strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        # Rows read by functions of this process, which are not pickled; a worker makes its own.
        return {**self.__dict__, "_columns": None}

    def __repr__(self) -> str:
        return f"RowDataset({self.run.id!r}, {self._settings[0]!r}, {len(self)} rows)"

    def _open(self) -> Columns:
        if self._columns is None:
            self._columns = Columns(self.run, *self._settings)
        return self._columns
