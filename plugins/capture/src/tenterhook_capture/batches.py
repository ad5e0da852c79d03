"""Which documents share a forward.

What runs by length is sorted within a stretch: documents that follow each other, of so many tokens
and rows at most. The rows of a stretch come out of order and wait in memory until it is through,
so a stretch bounds what waits, whatever the unit holds.

Where the number of documents is given, the stretch is the whole unit and a batch has that many
documents, as runs of earlier versions have it (`Batching`). Else a budget of tokens bounds a
batch, and a document that is much shorter than the longest of the batch begins another one.
"""

import operator
from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_capture.batching import Batching
from tenterhook_capture.token_rows import Piece, numbers, spans

ALIKE = 7 / 8
"""A document that is shorter than this share of the longest begins another batch, so that padding
is 7 % in the mean where lengths are spread evenly, whatever the budget."""

SMALL = 8
"""A batch that has less than this part of the budget takes shorter documents too: more small
forwards would cost more time than the padding."""

STRETCH_TOKENS = 32_768
"""Tokens of a stretch at most, or `STRETCH_BATCHES` budgets where that is more: the more documents
to sort, the more alike are neighbours."""

STRETCH_BATCHES = 8

STRETCH_BYTES = 1 << 30
"""What the rows of a stretch take at most, all layers together."""


@attrs.frozen
class Stretch:
    """Rows of a unit that follow each other, and are computed in another order."""

    start: int
    """The run's row that is its first."""
    rows: int


class Batch:
    """Windows that run together, and where their rows belong."""

    def __init__(
        self, pieces: Sequence[Piece], stretch: Stretch | None = None, *, is_last: bool = True
    ) -> None:
        """`stretch` is given where its rows do not come in order; `is_last` of its batches."""
        self.pieces = pieces
        self.documents = [piece.window.ids for piece in pieces]
        self.rows = sum(len(piece.offsets) for piece in pieces)
        self.stretch = stretch
        self.is_last = is_last

    def __len__(self) -> int:
        return self.rows

    @property
    def tokens_computed(self) -> int:
        """The tokens of the forward, padding counted."""
        return len(self.documents) * max(map(len, self.documents))

    def picks(self) -> Tensor | None:
        """Which of the batch's real tokens are rows, int64 `(rows,)`; `None` where all are."""
        if self.rows == sum(map(len, self.documents)):
            return None
        found, first = [], 0
        for piece in self.pieces:
            found += [first + offset for offset in piece.offsets]
            first += len(piece.window.ids)
        return torch.tensor(found)

    def places(self, start: int) -> Tensor:
        """Return which rows they are, counted from the run's row `start`, int64 `(rows,)`."""
        parts = [torch.arange(p.row, p.row + len(p.offsets)) for p in self.pieces]
        return torch.cat(parts) - start

    def numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token id, document and position of each row: int32, int64, int32, `(rows,)` each."""
        found = numbers([piece.window for piece in self.pieces])
        picks = self.picks()
        if picks is None:
            return found
        tokens, documents, positions = (each[picks] for each in found)
        return tokens, documents, positions

    def spans(self) -> Tensor | None:
        """Where the characters of each row are in its document, int32 `(rows, 2)`, if known."""
        found, picks = spans([piece.window for piece in self.pieces]), self.picks()
        return found if found is None or picks is None else found[picks]


def batches(pieces: Iterable[Piece], how: Batching, *, row_bytes: int = 0) -> Iterator[Batch]:
    """Group the pieces of a unit; `row_bytes` is what the store keeps of a row.

    A window longer than the budget runs alone.
    """
    if not how.bucket:
        yield from map(Batch, _groups(pieces, how))
        return
    for stretch in _stretches(pieces, how, row_bytes):
        by_length = sorted(stretch, key=lambda piece: -len(piece.window.ids))
        groups = [*_groups(by_length, how)]
        rows = Stretch(stretch[0].row, sum(len(piece.offsets) for piece in stretch))
        for number, group in enumerate(groups, 1):
            if len(groups) == 1 and all(map(operator.is_, by_length, stretch)):
                yield Batch(group)  # in order as they are
            else:
                yield Batch(group, rows, is_last=number == len(groups))


def stretch_rows(row_bytes: int) -> int:
    """Return how many rows a stretch has at most, but for a window that has more by itself."""
    return max(1, STRETCH_BYTES // max(1, row_bytes))


def _stretches(pieces: Iterable[Piece], how: Batching, row_bytes: int) -> Iterator[list[Piece]]:
    if how.batch_size is not None:  # as runs of earlier versions have it
        whole = [*pieces]
        if whole:
            yield whole
        return
    most_tokens = max(STRETCH_TOKENS, STRETCH_BATCHES * (how.batch_tokens or 0))
    most_rows = stretch_rows(row_bytes)
    stretch: list[Piece] = []
    tokens = rows = 0
    for piece in pieces:
        tokens += len(piece.window.ids)
        rows += len(piece.offsets)
        if stretch and (tokens > most_tokens or rows > most_rows):
            yield stretch
            stretch, tokens, rows = [], len(piece.window.ids), len(piece.offsets)
        stretch.append(piece)
    if stretch:
        yield stretch


def _groups(pieces: Iterable[Piece], how: Batching) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    longest = 0
    for piece in pieces:
        length = len(piece.window.ids)
        if group and _is_full(group, longest, length, how):
            yield group
            group, longest = [], 0
        group.append(piece)
        longest = max(longest, length)
    if group:
        yield group


def _is_full(group: Sequence[Piece], longest: int, length: int, how: Batching) -> bool:
    """Whether a window of that length goes into another batch."""
    budget = how.batch_tokens
    if len(group) == how.batch_size:
        return True
    if budget is not None and max(longest, length) * (len(group) + 1) > budget:
        return True
    if how.batch_size is not None or budget is None or not how.bucket:
        return False
    return length < ALIKE * longest and longest * len(group) * SMALL >= budget
