"""The errors of the hook framework: one base class, each error a builtin kind too.

attrs writes what they would all repeat: `__init__` from the fields, `args` (so they can be copied
and pickled), and equality by identity.
"""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

import attrs


class TenterhookError(Exception):
    """What every error of tenterhook is: what happened, the value, the way out.

    Each also subclasses the builtin that fits (`LookupError`, `ValueError`, ...) and keeps its
    facts as attributes.
    """


class TenterhookWarning(UserWarning):
    """What every warning of tenterhook is."""


class HookWarning(TenterhookWarning):
    """A hook failed, or never did what it was there for, and the run went on."""


@attrs.define(slots=False)
class HookError(TenterhookError, RuntimeError):
    """A hook raised, or did what its kind of hook may not do."""

    hook_id: str
    hook_type: Any
    layer_signature: Any
    original_error: BaseException
    hook_class: str = "hook"

    def __str__(self) -> str:
        cause = self.original_error
        return (
            f"Layer {self.layer_signature!r}: {self.hook_class} {self.hook_id!r} "
            f"({self.hook_type}) failed: {type(cause).__name__}: {cause}"
        )


@attrs.define(slots=False)
class UnknownLayer(TenterhookError, ValueError, LookupError):
    """No layer answers to a signature."""

    layer: Any
    known: Sequence[str]
    detail: str = ""
    also: Sequence[str] = ()
    """Other spellings that were to be had: `layer_0`, `resid_post.0`."""

    def __str__(self) -> str:
        text = f"No layer {self.layer!r} in this model."
        if self.detail:
            text += f" {self.detail}"
        close = closest(str(self.layer), [*self.also, *self.known])
        if close:
            text += f" Closest: {', '.join(map(repr, close))}."
        return f"{text} list_layers() and `tenterhook layers MODEL` list all {len(self.known)}."


@attrs.define(slots=False)
class LayerConflict(TenterhookError, ValueError):
    """A detector and a controller would stand on one layer, and nobody said in which order."""

    layer: str
    new: str
    standing: str

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} already holds {self.standing}, so {self.new} cannot join it: "
            "a layer holds detectors or controllers. To have both, say in which order they run: "
            "register_hook(..., mix='detect_first'), 'detect_last' or 'in_order'."
        )


@attrs.define(slots=False)
class NeverFired(TenterhookError, RuntimeError):
    """A hook never ran, or saw nothing that it was there for."""

    reports: Sequence[str]

    def __str__(self) -> str:
        return " ".join(self.reports)


@attrs.define(slots=False)
class NotClean(TenterhookError, RuntimeError):
    """Something of ours is still attached to a module."""

    places: Sequence[str]

    def __str__(self) -> str:
        return (
            f"Still attached: {', '.join(self.places)}. Unregister hooks with "
            "model.layers.clear(including_permanent=True) and close open scopes."
        )


def closest(name: str, known: Collection[str], n: int = 3) -> list[str]:
    """Return up to `n` of `known` that look most like `name`, best first."""
    found = get_close_matches(name, known, n=n, cutoff=0.6)
    if not found:  # `attn` finds `transformer.h.0.attn`, `LN_F` finds `transformer.ln_f`
        low = name.lower().strip(".")
        found = [k for k in known if low and (low in k.lower() or k.lower().endswith(low))][:n]
    return found or get_close_matches(name, known, n=n, cutoff=0.0)
