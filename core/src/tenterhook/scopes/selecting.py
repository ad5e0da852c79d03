"""What a scope knows of a selector: that it says which part of an activation is meant.

Core does not know what a token is. `tenterhook.selections.Selection` is the selector that comes
with the distribution tenterhook-selections; any object with these methods serves as well.
"""

from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Selector(Protocol):
    """Which part of each activation a scope is for. Immutable; shared by scopes and threads."""

    @property
    def every(self) -> int:
        """The first call of a layer counts, and each `every`-th one after it."""

    def begin(self, model: nn.Module) -> "Selecting":
        """Return the selector at work, for one opening of a scope on `model`.

        Raises `ValueError` where it makes no sense for this model.
        """


class Picked(NamedTuple):
    """The selected part of one activation."""

    values: Tensor
    """The part, in the order of rows and of the tokens in each: `(n, features)` of selected tokens.
    A copy or a view, on the activation's device, in the graph."""

    places: Tensor | None
    """Where it stood, int64 `(n, 2)` on the CPU: row of the batch and position; `None` where
    tokens are not what was selected."""


class Selecting(Protocol):
    """A selector in one open scope. `mask` and `pick` raise `ValueError` or `IndexError` for an
    activation that has no such part."""

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what the model is given, before each of its forwards."""

    def detecting(self) -> Any:
        """Return itself: it looks on while controllers are off."""

    def mask(self, tensor: Tensor, given: Tensor | None) -> Tensor | None:
        """Return where the selected part is, bool and of `tensor`'s shape or broadcast to it.

        `None` where nothing of it is selected. `given` is the layer's first input.
        """

    def pick(self, tensor: Tensor, given: Tensor | None) -> Picked:
        """Return the selected part of `tensor`. `given` is the layer's first input."""
