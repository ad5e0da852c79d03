"""The sentences that say that a hook never ran, or saw nothing, and why that may be."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from tenterhook.errors import HookWarning, NeverFired

Report = Literal["warn", "raise", "ignore"]
"""What happens when a hook never ran or nothing was selected."""


def one_of(name: str, value: Any, literal: Any) -> Any:
    """Return a value that is one of a `Literal`; `ValueError` for any other."""
    if value not in (valid := get_args(literal)):
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, valid))}.")
    return value


def tell(reports: Sequence[str], missing: Report, stacklevel: int = 3) -> None:
    """Warn of what never happened, or raise `NeverFired`, as `missing` says."""
    if reports and missing == "raise":
        raise NeverFired(reports)
    for report in reports if missing == "warn" else ():
        warnings.warn(report, HookWarning, stacklevel=stacklevel)


def never_ran(what: str, layers: Mapping[str, nn.Module]) -> list[str]:
    """Return what is to be said of layers, by name, that never ran, and why it may be."""
    if not layers:
        return []
    names = ", ".join(map(repr, layers))
    reasons = list(dict.fromkeys(not_called(name, module) for name, module in layers.items()))
    if NOT_CALLED in reasons:
        reasons.append(
            "A scope is seen only by the thread or task that opened it; tenterhook.carry takes it "
            "into another."
        )
    return [f"{what} {names}: no forward ran there in this scope. {' '.join(reasons)}"]


NOT_CALLED = (
    "Code that takes a module's weights, or calls its forward, goes past its hooks; and not every "
    "input needs every module."
)


def not_called(name: str, module: nn.Module) -> str:
    """Return the sentence that says why a module may not have run."""
    if getattr(module.forward, "__func__", None) is not nn.Module.forward:
        return NOT_CALLED
    kind = type(module).__name__
    return f"{name!r} is a {kind} that has no forward, so it never runs: give what it holds."


def no_gradient(layers: Sequence[str]) -> list[str]:
    """Return what is to be said of layers at which no gradient came by."""
    names = ", ".join(map(repr, layers))
    text = (
        f"A hook never saw a gradient at {names}: no backward() of a forward in this scope came by "
        "there before the scope ended."
    )
    return [text] if layers else []
