"""Which rows of a run a probe computes again, and those that a unit of statistics keeps for it.

A probe runs one batch, of those that a unit begins with: the one whose longest document is longest
among those that cost little, for some changes show far from a document's beginning alone, as that
of a sliding window. Of its documents a few are compared, and of each the last rows, which depend on
all before them.

A run that keeps statistics and no rows has nothing to compare them with: a mean of 50,000 rows
takes 50,000 rows to compute again. So each of its units keeps a few rows of that same batch, by
the names of `NUMBERS` and `LAYER`. At 32 rows of 50,000 they are a thousandth of what is reduced.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from tenterhook_capture.batches import Batch
from tenterhook_capture.token_rows import Piece

TOKENS = 64
"""A batch of fewer says little: of one token, what attention does is not seen."""

LITTLE = 512
"""A batch of more tokens, padding counted, is run where there is no smaller one of enough."""

DOCUMENTS = 8
"""Documents of the batch whose rows are compared."""

ROWS = 32
"""The rows of each document that are compared: its last, which depend on all before them."""

LOOKED_AT = 256
"""Batches of a unit that are looked at for a good one."""

ROWS_KEPT = 32
"""Rows that a unit of statistics keeps at most, of all documents together."""

NUMBERS = "probe/rows"
"""The tensor of a unit that says which rows of the run it keeps, int64 `[rows]`, rising."""

LAYER = "probe/{}"
"""The tensor of those rows of a layer, by its number: `[rows, features]`, in the dtype that was
reduced."""


def best_batch(batches: Iterable[Batch]) -> Batch:
    """Return the batch that says most and costs little."""
    return min(islice(batches, LOOKED_AT), key=_rank)


def compared_documents(batch: Batch) -> Sequence[Piece]:
    """Return the pieces that are compared: spread over the batch, whose order may be by length."""
    step = -(-len(batch.pieces) // DOCUMENTS)
    return batch.pieces[::step]


def compared_rows(batch: Batch, each: int = ROWS) -> Tensor:
    """Return which rows of the batch are compared, int64 `[rows]`, from 0, `each` a document.

    In the order that they have in the run.
    """
    few, first = {id(piece) for piece in compared_documents(batch)}, 0
    found: list[int] = []
    for piece in batch.pieces:
        stop = first + len(piece.offsets)
        if id(piece) in few:
            found += range(max(first, stop - each), stop)
        first = stop
    chosen = torch.tensor(found)
    return chosen[batch.places(0)[chosen].argsort()]


class ProbeRows:
    """The rows that a unit keeps for a probe, found as its batches come."""

    def __init__(self) -> None:
        self._seen = 0
        self._rank: _Rank | None = None
        self._tensors: dict[str, Tensor] = {}

    def choose(self, batch: Batch) -> Tensor | None:
        """Return which rows of the batch to keep, on the CPU; `None` for none of them."""
        self._seen += 1
        rank = _rank(batch)
        if self._seen > LOOKED_AT or (self._rank is not None and rank >= self._rank):
            return None
        self._rank = rank
        chosen = compared_rows(batch, ROWS_KEPT // len(compared_documents(batch)))
        self._tensors = {NUMBERS: batch.places(0)[chosen]}
        return chosen

    def keep(self, layer: int, rows: Tensor) -> None:
        """Take the chosen rows of a layer, on any device, in memory of their own."""
        self._tensors[LAYER.format(layer)] = rows

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept with the unit, by name, on the CPU."""
        return {name: tensor.cpu() for name, tensor in self._tensors.items()}


_Rank = tuple[int, int, int]


def _rank(batch: Batch) -> _Rank:
    """Return what is least of the best batch."""
    tokens = batch.tokens_computed
    if tokens < TOKENS:
        return 2, -tokens, 0
    return (0, -max(map(len, batch.documents)), tokens) if tokens <= LITTLE else (1, tokens, 0)
