"""Where the characters of each row's token stand in its document.

They are a small tensor of each unit, which every store keeps already: a run that was begun before
there were any, and a model whose tokenizer does not tell, have none, and all else is as it was.
"""

from functools import lru_cache

import torch
from torch import Tensor

from tenterhook_store.errors import NoSpans
from tenterhook_store.readable import Readable
from tenterhook_store.rows import Rows

SPANS = "spans"
"""What a unit's tensor of them goes by, int32 `[rows, 2]`, and the key of `about` that says that
the units of a run have one."""

NOWHERE = (-1, -1)
"""The span of a token that no characters are of: a special token that the tokenizer adds."""

UNITS_IN_MEMORY = 8
"""How many units' spans are remembered: those that a loader's threads read side by side."""


def span_rows(run: Readable) -> Rows:
    """Return the span of each row, int32 `[rows, 2]`; `NoSpans` where the run has none."""
    if not run.plan.about.get(SPANS):
        raise NoSpans(run.id)
    size = run.plan.rows_per_unit

    @lru_cache(maxsize=UNITS_IN_MEMORY)
    def of_unit(number: int) -> Tensor:
        return run.unit_tensor(number, SPANS)

    def read(start: int, stop: int) -> Tensor:
        parts = [
            of_unit(number)[max(start - number * size, 0) : stop - number * size]
            for number in range(start // size, -(-stop // size))
        ]
        return torch.cat(parts)  # a copy, so that nobody writes to what is remembered

    return Rows(SPANS, (run.ranges.first, 2), torch.int32, read, ranges=run.ranges)
