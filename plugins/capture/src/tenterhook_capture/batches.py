"""Which documents share a forward."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from tenterhook_capture.token_rows import Piece, numbers, spans
from tenterhook_store import Unit


class Batch:
    """Windows that run together, and where their rows belong."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        self.documents = [piece.window.ids for piece in pieces]
        self.rows = sum(len(piece.offsets) for piece in pieces)

    def __len__(self) -> int:
        return self.rows

    def picks(self) -> Tensor | None:
        """Which of the batch's real tokens are rows, int64 `(rows,)`; `None` where all are."""
        if self.rows == sum(map(len, self.documents)):
            return None
        found, first = [], 0
        for piece in self.pieces:
            found += [first + offset for offset in piece.offsets]
            first += len(piece.window.ids)
        return torch.tensor(found)

    def places(self, unit: Unit) -> Tensor:
        """Which rows of the unit they are, from 0, int64 `(rows,)`."""
        parts = [torch.arange(p.row, p.row + len(p.offsets)) for p in self.pieces]
        return torch.cat(parts) - unit.start

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


def batches(
    pieces: Iterable[Piece], *, batch_size: int, batch_tokens: int | None, bucket: bool
) -> Iterator[Batch]:
    """Group pieces in their order, at most `batch_size` and `batch_tokens`, padding counted.

    A window longer than `batch_tokens` runs alone. With `bucket` the pieces are taken by length,
    the longest first, so that those of one batch need little padding.
    """
    if bucket:
        pieces = sorted(pieces, key=lambda piece: -len(piece.window.ids))
    group: list[Piece] = []
    longest = 0
    for piece in pieces:
        wide = max(longest, len(piece.window.ids))
        too_many = batch_tokens is not None and wide * (len(group) + 1) > batch_tokens
        if group and (len(group) == batch_size or too_many):
            yield Batch(group)
            group, wide = [], len(piece.window.ids)
        group.append(piece)
        longest = wide
    if group:
        yield Batch(group)
