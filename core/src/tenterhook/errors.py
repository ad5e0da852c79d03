"""The errors of the hook framework: one base class, each error a builtin kind too."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any


class TenterhookError(Exception):
    """What every error of tenterhook is: what happened, the value, the way out.

    Each also subclasses the builtin that fits (`LookupError`, `ValueError`, ...) and keeps its
    facts as attributes.
    """


class TenterhookWarning(UserWarning):
    """What every warning of tenterhook is."""


class HookWarning(TenterhookWarning):
    """A hook failed, or never did what it was there for, and the run went on."""


class HookError(TenterhookError, RuntimeError):
    """A hook raised, or did what its kind of hook may not do."""

    def __init__(
        self,
        hook_id: str,
        hook_type: Any,
        layer_signature: Any,
        original_error: BaseException,
        hook_class: str = "hook",
    ) -> None:
        super().__init__(hook_id, hook_type, layer_signature, original_error, hook_class)
        self.hook_id = hook_id
        self.hook_type = hook_type
        self.layer_signature = layer_signature
        self.original_error = original_error
        self.hook_class = hook_class

    def __str__(self) -> str:
        cause = self.original_error
        return (
            f"{self.hook_class} {self.hook_id!r} ({self.hook_type}) on layer "
            f"{self.layer_signature!r} failed: {type(cause).__name__}: {cause}"
        )


class UnknownLayer(TenterhookError, ValueError, LookupError):
    """No layer answers to a signature."""

    def __init__(self, layer: Any, known: Sequence[str], detail: str = "") -> None:
        super().__init__(layer, known, detail)
        self.layer, self.known, self.detail = layer, list(known), detail

    def __str__(self) -> str:
        said = f"No layer {self.layer!r} in this model."
        if self.detail:
            said += f" {self.detail}"
        close = closest(str(self.layer), self.known)
        if close:
            said += f" Closest: {', '.join(map(repr, close))}."
        return f"{said} list_layers() and `tenterhook layers MODEL` list all {len(self.known)}."


class LayerConflict(TenterhookError, ValueError):
    """A detector and a controller would stand on one layer, and nobody said in which order."""

    def __init__(self, layer: str, new: str, standing: str) -> None:
        super().__init__(layer, new, standing)
        self.layer, self.new, self.standing = layer, new, standing

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} already holds {self.standing}, so {self.new} cannot join it: "
            "a layer holds detectors or controllers. To have both, say in which order they run: "
            "register_hook(..., mix='detect_first'), 'detect_last' or 'in_order'."
        )


def closest(name: str, known: Collection[str], n: int = 3) -> list[str]:
    """Return up to `n` of `known` that look most like `name`, best first."""
    found = get_close_matches(name, known, n=n, cutoff=0.6)
    if not found:  # `attn` finds `transformer.h.0.attn`, `LN_F` finds `transformer.ln_f`
        low = name.lower().strip(".")
        found = [k for k in known if low and (low in k.lower() or k.lower().endswith(low))][:n]
    return found or get_close_matches(name, known, n=n, cutoff=0.0)
