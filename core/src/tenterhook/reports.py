"""The sentences that say that a hook never ran, or saw nothing, and why that may be."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from tenterhook.layers import Layer

Report = Literal["warn", "raise", "ignore"]
"""What happens when a hook never ran or nothing was selected."""


def never_ran(what: str, layers: Sequence[Layer]) -> str:
    """Return the sentences that say so, and why it may be."""
    names = ", ".join(repr(layer.name) for layer in layers)
    reasons = list(dict.fromkeys(not_called(layer.name, layer.module) for layer in layers))
    if NOT_CALLED in reasons:
        reasons.append(
            "A scope is seen only by the thread or task that opened it; tenterhook.carry takes it "
            "into another."
        )
    return f"{what} {names}: no forward ran there in this scope. {' '.join(reasons)}"


NOT_CALLED = (
    "Code that takes a module's weights, or calls its forward, goes past its hooks; and not every "
    "input needs every module."
)


def not_called(name: str, module: nn.Module) -> str:
    """Return the sentence that says why a module may not have run."""
    if type(module).forward is not nn.Module.forward or "forward" in vars(module):
        return NOT_CALLED
    kind = type(module).__name__
    return f"{name!r} is a {kind} that has no forward, so it never runs: give what it holds."


def nothing_matched(selection: object, layers: Sequence[str]) -> str:
    """Return the sentence that says that a selection selected nothing."""
    return f"{selection} matched no token at {', '.join(map(repr, layers))}."
