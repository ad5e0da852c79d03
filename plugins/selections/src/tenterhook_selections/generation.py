"""The generation that runs in this thread or task, and which forwards are its steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

import attrs
import torch
from torch import Tensor, nn

from tenterhook_selections.calls import calls_here, is_call_of


@attrs.frozen(eq=False)
class RunningGeneration:
    """A generation that runs in this thread or task."""

    prompt: Tensor
    """Long `(batch,)`: the real tokens of each prompt."""

    model: nn.Module | None = None
    """The model that generates; `None` where nobody said."""

    within: FrameType | None = None
    """The call of a module in which the generation began."""

    def has_step(self, module: nn.Module) -> bool:
        """Whether the innermost call that runs here, which is one of `module`, is a step of it.

        Not one within another call of `module`, as a hook makes it to look at other text, and none
        of a model that has no part in it.
        """
        if self.model is not None and not _is_part(module, self.model):
            return False
        _, *outer = calls_here()
        for call in outer:
            if call is self.within:
                break
            if is_call_of(call, module):
                return False
        return True


def _is_part(one: nn.Module, other: nn.Module) -> bool:
    """Return whether one of the two modules is the other, or a part of it."""
    if one is other:
        return True
    return any(part is one for part in other.modules()) or any(m is other for m in one.modules())


_running: ContextVar[RunningGeneration | None] = ContextVar("tenterhook_generation", default=None)


def copies_of(batch: int, generation: RunningGeneration | None) -> int:
    """Return how many rows of a forward stand for one prompt of the generation."""
    if generation is None or batch % len(generation.prompt):
        return 1
    return batch // len(generation.prompt)


@contextmanager
def generating(prompt_lengths: Sequence[int], *, model: nn.Module | None = None) -> Iterator[None]:
    """Say that the forwards in this block generate from prompts of so many real tokens each.

    Without it, the tokens of a forward that has a past count as generated, all others as prompt.
    A forward that a hook makes within one of them is none of them; nor, where `model` is named, is
    one of a model that has no part in it.
    """
    lengths = torch.as_tensor(list(prompt_lengths))
    token = _running.set(RunningGeneration(lengths, model, next(calls_here(), None)))
    try:
        yield
    finally:
        _running.reset(token)


def running_generation() -> RunningGeneration | None:
    """Return the generation that runs in this thread or task, `None` where none does."""
    return _running.get()
