"""What the forward that runs was given: noted as it begins, looked at when a selection asks."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tenterhook_selections.calls import calls_here, is_call_of, runs_itself
from tenterhook_selections.forwards import Forward, begin, end, running_forward
from tenterhook_selections.tokens import Seen


class AmongTokens(Protocol):
    """A selection, as far as the forward matters to it."""

    @property
    def of_tokens(self) -> bool:
        """Whether it selects among tokens."""


_backward_id: Any = getattr(torch._C, "_current_graph_task_id", lambda: -1)  # private to torch
_NEAR = 200
"""How many frames up one looks for a forward that nobody took note of."""


class Watch:
    """Knows what the forward that runs was given.

    A hook that needs to know, as one that keeps texts does, has one of its own on the model it is
    attached to: `before` as a forward pre-hook `with_kwargs`. Where a hook runs the model itself,
    the forward is the innermost one.
    """

    def __init__(
        self, module: nn.Module | None = None, parts: Collection[nn.Module] | None = None
    ) -> None:
        """`parts` are the modules whose forwards count; `module` alone where none are given."""
        self._module = module
        self._parts = (module,) if parts is None and module is not None else parts
        self._padded = False

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """The inputs, by name, of the forward that runs in this thread; `None` outside one."""
        forward = self.forward_at(self)
        return None if forward is None else forward.named

    @property
    def seen(self) -> Seen | None:
        """The tokens of the forward that runs in this thread; `None` outside one."""
        forward = self.forward_at(self)
        return None if forward is None else forward.tokens

    def seen_for(self, selection: AmongTokens, given: Tensor | None = None) -> Seen | None:
        """Return `seen`, for a selection that is to pick among the tokens.

        `given` is the first input of the layer. Raises `ValueError` where tokens are selected and
        it cannot be known which are real.
        """
        return self.tokens_for(selection, self.forward_at(self))

    def tokens_for(self, selection: AmongTokens, forward: Forward | None) -> Seen | None:
        """Return the tokens of a forward, for a selection; see `seen_for`."""
        if forward is None:
            if selection.of_tokens:
                self._check_outside()
            return None
        seen = forward.tokens
        if seen is not None and bool((seen.count != seen.real.shape[1]).any()):
            self._padded = True
        if selection.of_tokens and seen is not None and seen.unread is not None:
            raise ValueError(
                f"Tokens are selected, and the attention mask, a {seen.unread}, does not say which "
                "are real. Give the model a mask (batch, seq) of 1 and 0, or one prepared for "
                "attention (batch, heads, seq, keys)."
            )
        if selection.of_tokens and seen is not None and seen.untold is not None:
            raise ValueError(f"Tokens are selected, and {seen.untold}.")
        return seen

    def _check_outside(self) -> None:
        """Raise where a forward runs that nobody took note of."""
        whole = self._module
        if whole is None:
            return
        called = runs_itself(self._parts or (whole,))
        if called is not None:
            raise ValueError(
                f"Tokens are selected, and the forward of {type(called).__name__} was called past "
                "its hooks, which do not know what it was given. Call the model, not its forward."
            )
        if any(is_call_of(call, whole) for call in calls_here(_NEAR)):
            raise ValueError(
                "Tokens are selected in a scope that was opened, or for a hook that was "
                "registered, while the model ran, so it is not known what the model was given. "
                "Open or register it before."
            )
        if self._padded and _backward_id() != -1:
            raise ValueError(
                "The layer runs again during backward(), as activation checkpointing has it, "
                "and it is not known for which of the forwards, so not which tokens are real. "
                "Select tokens without checkpointing, or in batches without padding."
            )

    @property
    def notes(self) -> dict[str, Any] | None:
        """What hooks keep with the forward that runs, to be forgotten with it; `None` outside."""
        forward = self.forward_at(self)
        return None if forward is None else forward.notes

    def detecting(self) -> "Watch":
        """Run while controllers are off, too."""
        return self

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take note of the inputs; they are looked at when a selection asks."""
        begin(module, args, kwargs)

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Take note of the state that a forward returns."""
        end(module, output)

    def forward_at(self, asks: object) -> Forward | None:
        """Return the innermost forward that runs here; `asks` is the layer that asks, if any."""
        return running_forward(id(asks), self._parts)
