"""Which rows of a run come from which document."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from tenterhook.html import table
from tenterhook_store.errors import NoDocumentField
from tenterhook_store.row_ranges import RowRanges
from tenterhook_store.rows import BLOCK, Rows


@final
class DocumentMap:
    """Which document each row is of, and which rows each document has.

    Rows are in the documents' order, so the rows of a document are found by bisection: the first
    row of some blocks is read, then one block (test_documents_are_found_in_little_memory).
    """

    def __init__(
        self,
        index: Rows,
        position: Rows,
        count: int,
        ranges: RowRanges | None = None,
        *,
        fields: Sequence[str] = (),
        read_field: Callable[[str], list[Any]] | None = None,
        run_id: str = "",
    ) -> None:
        """`read_field` reads the values of one of `fields`."""
        self.fields = tuple(fields)
        """The fields whose values are kept: `run.documents["label"]`."""
        self._read_field = read_field
        self._run_id = run_id
        self.index = index
        """The document of every row, int64 `[rows]`: its place among the documents captured."""
        self.position = position
        """The token of its document that every row is, int32 `[rows]`, from 0."""
        self._count = count
        self._ranges = RowRanges.whole(len(index)) if ranges is None else ranges
        self._firsts: dict[int, int] = {}
        """The document of a row that was looked at: the first of a block of those there are."""
        self._block: tuple[int, Tensor] = (-1, torch.empty(0))
        """The block that was looked into last, by its number."""

    def __len__(self) -> int:
        """How many documents there are, those without rows among them."""
        return self._count

    def __contains__(self, field: object) -> bool:
        """Whether values of the field are kept."""
        return field in self.fields

    def __getitem__(self, field: str) -> list[Any]:
        """Return the values of a field that was kept, one a document, in their order.

        Text, numbers, bools and `None`. Raises `NoDocumentField` (a `KeyError`), and `MissingRows`
        where units are missing.
        """
        if field not in self.fields or self._read_field is None:
            raise NoDocumentField(field, self.fields, self._run_id)
        return self._read_field(field)

    def __repr__(self) -> str:
        fields = f", fields={list(self.fields)}" if self.fields else ""
        return f"DocumentMap({len(self):,} documents, {self._ranges.rows:,} rows{fields})"

    def _repr_html_(self) -> str:
        facts = (("documents", f"{len(self):,}"), ("rows", f"{self._ranges.rows:,}"))
        fields = [("field", each) for each in self.fields]
        return table([("of run", self._run_id), *facts, *fields])

    __iter__ = None  # documents are asked for by number, with `rows`; fields by name

    def rows(self, document: int) -> slice:
        """Return where the rows of a document are; empty where it has none that can be read.

        From the first to the last that is there: where a unit between them is missing, reading
        them is `MissingRows`. Raises `IndexError` where there is no such document.
        """
        at = document + len(self) if document < 0 else document
        if not 0 <= at < len(self):
            raise IndexError(f"Document {document} is not among the {len(self)} of this run.")
        first, after = self._first_place(at), self._first_place(at + 1)
        if first == after:
            row = self._row(first) if first < self._ranges.rows else self._ranges.end
            return slice(row, row)
        return slice(self._row(first), self._row(after - 1) + 1)

    def _row(self, place: int) -> int:
        return next(self._ranges.stretches(place, place + 1))[0]

    def _first_place(self, document: int) -> int:
        """Return where, among the rows that are there, those of a document begin, or would."""
        count = -(-self._ranges.rows // BLOCK)
        block = bisect_left(range(count), document, key=self._first_of) - 1
        if block < 0:
            return 0
        known, numbers = self._block
        if known != block:
            stop = min((block + 1) * BLOCK, self._ranges.rows)
            parts = [self.index[a:b] for a, b in self._ranges.stretches(block * BLOCK, stop)]
            numbers = torch.cat(parts)
            self._block = block, numbers
        return block * BLOCK + int(torch.searchsorted(numbers, document))

    def _first_of(self, block: int) -> int:
        if block not in self._firsts:
            self._firsts[block] = int(self.index[self._row(block * BLOCK)])
        return self._firsts[block]
