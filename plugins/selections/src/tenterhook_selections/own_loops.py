"""Loops of one's own that generate, and say what the prompts were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tenterhook_selections.forwards import innermost_forward
from tenterhook_selections.generation import RunningGeneration, running
from tenterhook_selections.roles import Roles


@contextmanager
def generating(
    prompt_lengths: Sequence[int],
    *,
    model: nn.Module | None = None,
    roles: Sequence[Roles] | None = None,
) -> Iterator[RunningGeneration]:
    """Say that the forwards in this block generate from prompts of so many real tokens each.

    For a loop of one's own. Without it, the tokens of a forward that has a past count as generated,
    all others as prompt. A forward that a hook makes within one of them is none of them; nor, where
    `model` is named, is one of a model that has no part in it. transformers' `generate` says it all
    by itself.

    `roles` say who says what in each prompt, as `LanguageModel.roles` has it, for selections such
    as `tokens="user"`; a forward over whole texts is a generation that makes nothing. Raises
    `ValueError` where they are not one for each prompt.
    """
    if roles is not None and len(roles) != len(prompt_lengths):
        raise ValueError(f"There are {len(prompt_lengths)} prompts and {len(roles)} roles.")
    within = innermost_forward()
    lengths = torch.as_tensor(list(prompt_lengths))
    frame = None if within is None else within.frame
    generation = RunningGeneration(lengths, model, frame, roles)
    token = running.set(generation)
    try:
        yield generation
    finally:
        running.reset(token)
