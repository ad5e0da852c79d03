"""The rows of a run, a block at a time, and the fold that each is held out in.

Folds are of documents, not of rows: the tokens of one text are alike, and a vector that has seen
some of them knows the others.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tenterhook_store import Run

BLOCK = 4096
"""Rows that are read at once at most."""

AT_ONCE = 2**24
"""Bytes of rows, in float64, that are read at once."""


def row_blocks(
    run: Run, layer: str, count: Callable[[int], object] = lambda rows: None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give the rows that are there, float64 `[rows, features]`, their numbers and documents.

    `count` is called with how many rows are done with.
    """
    rows = run[layer]
    size = max(1, min(BLOCK, AT_ONCE // (8 * rows.shape[1])))
    for part in run.ranges:
        for start in range(part.start, part.stop, size):
            stop = min(start + size, part.stop)
            numbers = torch.arange(start, stop)
            yield rows[start:stop].double(), numbers, run.documents.index[start:stop].long()
            count(stop - start)


def folds_of(folds: int, documents: int) -> int:
    """Return how many folds there can be: each is to have a document."""
    if folds < 2:
        raise ValueError(f"folds={folds!r} must be a whole number, 2 or more.")
    return min(folds, documents)
