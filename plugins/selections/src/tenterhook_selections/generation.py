"""The generation that runs in this thread or task, and which forwards are its steps."""

import itertools
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

import attrs
from torch import Tensor, nn

from tenterhook_selections.roles import Roles

numbers = itertools.count()
"""Each generation has one of its own."""


class Running(Protocol):
    """What is known of any generation: a loop of one's own (`RunningGeneration`) or a `Search`."""

    within: int | None
    """The `id` of the frame of the forward in which it began."""

    number: int
    """One that no other generation has."""

    @property
    def prompt(self) -> Tensor:
        """Long `(batch,)`: the real tokens of each prompt."""

    @property
    def roles(self) -> Sequence[Roles] | None:
        """Who says what in each prompt; `None` where it is not known."""

    def has_part(self, module: nn.Module) -> bool:
        """Whether the module has a part in it: is the model, within it or around it."""


@attrs.define(eq=False)
class RunningGeneration:
    """A generation that runs in this thread or task, by a loop that says its prompts' lengths."""

    prompt: Tensor
    """Long `(batch,)`: the real tokens of each prompt."""

    model: nn.Module | None = None
    """The model that generates; `None` where nobody said."""

    within: int | None = None
    """The `id` of the frame of the forward in which the generation began."""

    roles: Sequence[Roles] | None = None
    """Who says what in each prompt; `None` where it is not known."""

    search: Any = None
    """The call of transformers' `generate` that was made in it, when it is over."""

    number: int = attrs.field(init=False, factory=partial(next, numbers))

    def has_part(self, module: nn.Module) -> bool:
        """Whether the module has a part in it: is the model, within it or around it."""
        return self.model is None or is_part(module, self.model)


def is_part(one: nn.Module, other: nn.Module) -> bool:
    """Return whether one of the two modules is the other, or a part of it."""
    if one is other:
        return True
    return any(part is one for part in other.modules()) or any(m is other for m in one.modules())


running: ContextVar[Running | None] = ContextVar("tenterhook_generation", default=None)


def copies_of(batch: int, generation: Running | None) -> int:
    """Return how many rows of a forward stand for one prompt of the generation."""
    if generation is None or batch % len(generation.prompt):
        return 1
    return batch // len(generation.prompt)


def running_generation() -> Running | None:
    """Return the generation that runs in this thread or task, `None` where none does."""
    return running.get()
