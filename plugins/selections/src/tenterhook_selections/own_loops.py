"""Loops of one's own that generate, and say what the prompts were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tenterhook_selections.forwards import innermost_forward
from tenterhook_selections.generation import RunningGeneration, running


@contextmanager
def generating(
    prompt_lengths: Sequence[int], *, model: nn.Module | None = None
) -> Iterator[RunningGeneration]:
    """Say that the forwards in this block generate from prompts of so many real tokens each.

    For a loop of one's own. Without it, the tokens of a forward that has a past count as generated,
    all others as prompt. A forward that a hook makes within one of them is none of them; nor, where
    `model` is named, is one of a model that has no part in it. transformers' `generate` says it all
    by itself.
    """
    within = innermost_forward()
    lengths = torch.as_tensor(list(prompt_lengths))
    generation = RunningGeneration(lengths, model, None if within is None else within.frame)
    token = running.set(generation)
    try:
        yield generation
    finally:
        running.reset(token)
