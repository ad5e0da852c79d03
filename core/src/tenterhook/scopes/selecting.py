"""What a scope knows of a selector: that it says which part of an activation is meant.

Core does not know what a token is. `tenterhook.selections.Selection` is the selector that comes
with the distribution tenterhook-selections; any object with these methods serves as well.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, get_args

from torch import Tensor, nn

from tenterhook._dispatch.frames import NO_STEPS, Place, Steps
from tenterhook._dispatch.sites import Side, site_of


class Selector(Protocol):
    """Which part of each activation a scope is for. Immutable; shared by scopes and threads."""

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
    activation that has no such part.

    It is a step of the scope, too: `before(module, args, kwargs)` is called before each forward of
    one of its `modules`, `after(module, args, kwargs, output)` after it, and `detecting()` gives
    itself, since it looks on while controllers are off.
    """

    every: int
    """The first call of a layer counts, and each `every`-th one after it."""

    modules: Sequence[nn.Module]
    """The model, and those of its parts whose forwards it looks at."""

    places: Sequence[Place]
    """What else is entered when the scope opens, and left when it closes."""

    def mask(self, module: nn.Module, tensor: Tensor, given: Tensor | None) -> Tensor | None:
        """Return where the selected part is, bool and of `tensor`'s shape or broadcast to it.

        `None` where nothing of it is selected. `given` is the first input of the layer `module`.
        """

    def pick(self, module: nn.Module, tensor: Tensor, given: Tensor | None) -> Picked:
        """Return the selected part of `tensor`. `given` is the first input of `module`."""

    def recorded(self, calls: list[Tensor], places: list[Tensor]) -> None:
        """Take note that the latest pick is now the last of `calls`, in the form it is kept in.

        When more is known, it may be replaced there.
        """

    def by_row(self, calls: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Return what was kept of each row, `(tokens, features)`, in token order."""

    def unmatched(self, layers: Sequence[str]) -> list[str]:
        """Return the sentence that says that nothing was selected at the layers, and why.

        None where there are no layers.
        """


def steps_of(selecting: Selecting) -> dict[Place, Steps]:
    """Return where a selector looks on."""
    at: list[Place] = [site_of(m, side) for m in selecting.modules for side in get_args(Side)]
    return dict.fromkeys(selecting.places, NO_STEPS) | dict.fromkeys(at, Steps((selecting,)))
