"""Changes that are measured: `steer(..., measure=True)`."""

from typing import Any

import attrs
from torch import nn

from tenterhook.scopes import Selecting, Selector
from tenterhook_selections.receipts import Receipt
from tenterhook_selections.selection import Selection


@attrs.frozen
class Measured:
    """A selector whose changes are measured."""

    selector: Selector

    def begin(self, model: nn.Module) -> Selecting:
        """Return the selector at work, with a receipt that measures."""
        selecting: Any = self.selector.begin(model)
        selecting.receipt = Receipt(measure=True)
        found: Selecting = selecting
        return found


def measured(selector: Selector | None) -> Measured:
    """Return a selector whose changes are measured; of everything, for `None`."""
    return Measured(Selection() if selector is None else selector)
