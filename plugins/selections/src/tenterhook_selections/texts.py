"""Which calls of one capture are of the same texts: row 0 of one batch is not row 0 of the next.

A scope may see several batches, or several calls of `generate`. A later forward goes on with the
texts of the one before where it has a past, as the next turn of a reused cache has, or where it is
given the same ids, or these and more, as a loop without a cache gives them. The steps of one
generation are of the same texts, whatever ran in between. Else the rows are other texts.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from tenterhook_selections.forwards import Forward
from tenterhook_selections.tokens import ids_of


class Texts:
    """The texts of one capture, numbered as they come."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._latest = 0
        self._given: Tensor | None = None
        """The latest ones, as far as they are known."""
        self._of_generations: dict[int, int] = {}

    def number(self, forward: Forward) -> int:
        """Return which texts those of a forward are; 0 where it has none."""
        while forward.outer is not None and forward.is_part:
            forward = forward.outer
        found: int | None = forward.masks.get(self)
        if found is None:
            found = forward.masks[self] = self._number(forward)
        return found

    def _number(self, forward: Forward) -> int:
        step = forward.step
        if forward.shape is None or (step is not None and step.text is None):
            return 0
        generation: Any = forward.generation if step is None else step.search
        given, before = _marks(forward), self._given
        goes_on = forward.past > 0 or isinstance(forward.state, Tensor)
        if step is not None and step.text is not None:
            goes_on = step.text.goes_on
        self._given = given
        if goes_on and given is not None and before is not None and len(given) == len(before):
            self._given = torch.cat([before.to(given.device), given], 1)
        known = None if generation is None else self._of_generations.get(generation.number)
        if known is not None:
            self._latest = known
            return known
        if not goes_on and not _begins_with(given, before):
            self._latest = next(self._numbers)
        if generation is not None:
            self._of_generations[generation.number] = self._latest
        return self._latest


def _marks(forward: Forward) -> Tensor | None:
    """Return what tells the tokens of a forward from others, `(batch, seq)`; `None` without any."""
    ids = ids_of(forward.named)
    if ids is not None:
        return ids.detach().clone()
    embedded = forward.named.get("inputs_embeds")
    if not isinstance(embedded, Tensor) or embedded.ndim != 3:
        return None
    return embedded.detach().sum(-1, dtype=torch.float64)


def _begins_with(given: Tensor | None, before: Tensor | None) -> bool:
    """Whether each row begins as one before did."""
    if given is None or before is None or given.is_meta or before.is_meta:
        return False
    if len(given) != len(before) or given.shape[1] < before.shape[1]:
        return False
    return torch.equal(given[:, : before.shape[1]], before.to(given.device))
