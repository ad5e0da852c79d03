"""The selector, and which ids have quotes in them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from tenterhook_selections import Seen

_quotes: ContextVar[Mapping[int, int] | None] = ContextVar("tenterhook_quoted", default=None)
"""How many quotes the ids have that have any."""


@contextmanager
def quotes_of(tokenizer: Any) -> Iterator[None]:
    """Have `tokens="quoted"` know the tokenizer's quotes while the block runs, in this thread."""
    found = {id: tokenizer.decode([id]).count('"') for id in range(len(tokenizer))}
    token = _quotes.set({id: count for id, count in found.items() if count})
    try:
        yield
    finally:
        _quotes.reset(token)


def quoted(tokens: Seen) -> Tensor:
    """Select the tokens between an opening and a closing quote, those apart; bool `(batch, seq)`.

    A quote that is not closed goes on to the end of what there is. Raises `ValueError` where the
    text before this forward is not known, as with beams and a cache.
    """
    quotes = _quotes.get() or {}
    found = torch.zeros_like(tokens.real)
    for row in range(len(found)):
        ids = tokens.ids_so_far(row)
        if ids is None:
            raise ValueError(
                "Whether a token is quoted depends on those before, which are not known here. "
                "Generate without beams, or with use_cache=False."
            )
        counts = torch.tensor([quotes.get(id, 0) for id in ids], dtype=torch.long)
        inside = (counts.cumsum(0) % 2 == 1) & (counts == 0)
        real = tokens.real[row]
        found[row, real] = inside[tokens.position[row][real]]
    return found
