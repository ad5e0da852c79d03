"""What the forward that runs was given: noted as it begins, looked at when a selection asks."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn

from tenterhook.activations import inputs_of, named_inputs
from tenterhook_selections.calls import calls_here, is_call_of, note, noted
from tenterhook_selections.generation import RunningGeneration, running_generation
from tenterhook_selections.tokens import Seen, past_length


class AmongTokens(Protocol):
    """A selection, as far as the forward matters to it."""

    @property
    def of_tokens(self) -> bool:
        """Whether it selects among tokens."""


@attrs.define(eq=False)
class _Forward:
    """What one forward that runs was given."""

    named: Mapping[str, Any]
    past: int
    generation: RunningGeneration | None
    seen: Seen | None = None
    is_read: bool = False
    kept: dict[str, Any] = attrs.field(factory=dict)


_backward_id: Any = getattr(torch._C, "_current_graph_task_id", lambda: -1)  # private to torch


class Watch:
    """Remembers what the forward that runs was given; a step of a scope on the whole model.

    A hook that needs to know, as one that keeps texts does, has one of its own on the model it is
    attached to: `before` as a forward pre-hook `with_kwargs`. Where a hook runs the model itself,
    the forward is the innermost one.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self._module = module
        self._padded = False

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """The inputs, by name, of the forward that runs in this thread; `None` outside one."""
        forward = self._forward()
        return None if forward is None else forward.named

    @property
    def seen(self) -> Seen | None:
        """The tokens of the forward that runs in this thread; `None` outside one."""
        forward = self._forward()
        return None if forward is None else self._tokens(forward)

    def seen_for(self, selection: AmongTokens, given: Tensor | None = None) -> Seen | None:
        """Return `seen`, for a selection that is to pick among the tokens.

        `given` is the first input of the layer. Raises `ValueError` where tokens are selected and
        it cannot be known which are real.
        """
        forward = self._forward()
        if forward is None:
            if selection.of_tokens:
                self._check_outside()
            return None
        other = forward.named.get("encoder_hidden_states")
        if selection.of_tokens and other is not None and other is given:
            raise ValueError(
                "Tokens are selected, and the layer is given the encoder's, whose padding a "
                "decoder does not know. Select them in the encoder: tenterhook.attach(encoder)."
            )
        seen = self._tokens(forward)
        if selection.of_tokens and seen is not None and seen.unread is not None:
            raise ValueError(
                f"Tokens are selected, and the attention mask, a {seen.unread}, does not say which "
                "are real. Give the model a mask (batch, seq) of 1 and 0, or one prepared for "
                "attention (batch, heads, seq, keys)."
            )
        return seen

    def _tokens(self, forward: _Forward) -> Seen | None:
        if not forward.is_read:
            seen = forward.seen = Seen.of_call(
                forward.named, forward.past, generation=forward.generation
            )
            forward.is_read = True
            if seen is not None and bool((seen.count != seen.real.shape[1]).any()):
                self._padded = True
        return forward.seen

    def _check_outside(self) -> None:
        """Raise where a forward runs that nobody took note of."""
        whole = self._module
        if whole is not None and any(is_call_of(call, whole) for call in calls_here()):
            raise ValueError(
                "Tokens are selected in a scope that was opened while the model ran, which "
                "does not know what the model was given. Open the scope before."
            )
        if self._padded and _backward_id() != -1:
            raise ValueError(
                "The layer runs again during backward(), as activation checkpointing has it, "
                "and it is not known for which of the forwards, so not which tokens are real. "
                "Select tokens without checkpointing, or in batches without padding."
            )

    @property
    def kept(self) -> dict[str, Any] | None:
        """What hooks keep with the forward that runs, to be forgotten with it; `None` outside."""
        forward = self._forward()
        return None if forward is None else forward.kept

    def detecting(self) -> "Watch":
        """Run while controllers are off, too."""
        return self

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take note of the inputs; they are looked at when a selection asks.

        All but the length of the cache, which grows as the layers run.
        """
        call = next(calls_here(), None)
        if call is None:
            return
        named = named_inputs(module, inputs_of(module, args, kwargs))
        running = running_generation()
        if running is not None and not running.has_step(module):
            running = None
        note(call, self, _Forward(named, past_length(named), running))

    def _forward(self) -> _Forward | None:
        """Return the innermost forward that runs here."""
        found = (noted(call, self) for call in calls_here())
        return next((forward for forward in found if forward is not None), None)
