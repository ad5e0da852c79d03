"""Our names in transformers' tables of attention functions, and the configs that say them.

A model of transformers looks its attention function up by the name in its config, at each call,
and the function that makes its masks by the same name. So ours stands in both tables under a name
of its own, beside the implementation that it hands on to: `tenterhook_sdpa` for `sdpa`. With the
second table left out, the masks would be those for no implementation, and logits others.

A config is shared by all threads. It is switched when the first point of one of its attentions
comes to be used and back when the last has gone, under core's lock; who runs the model meanwhile
gets what was there before, by one more Python call.
"""

import inspect
from collections.abc import Callable
from typing import Any

import attrs
from torch import nn

PREFIX = "tenterhook_"

READABLE = ("sdpa",)
"""Fused implementations whose scores can be computed beside them, from queries and keys."""

_NAME = "_attn_implementation_internal"


@attrs.define
class _Switched:
    config: Any
    before: str | None
    count: int = 0


_switched: dict[int, _Switched] = {}
"""By the `id` of a config, which is held so that no other has its id."""


def implementation_of(module: nn.Module) -> str:
    """Return the name of the attention implementation that a module's config says, ours left out.

    A config that says none means the eager functions.
    """
    name = getattr(module.config, "_attn_implementation", None) or "eager"
    return str(name).removeprefix(PREFIX)


def why_hidden(name: str) -> str | None:
    """Return why an implementation shows no scores and patterns; `None` for one that does."""
    if name in ("eager", *READABLE):
        return None
    return (
        f"A kernel ({name}) computes it and does not show it: load the model with "
        "attn_implementation='eager' or 'sdpa'."
    )


def prove_by_eager(twin: nn.Module) -> None:
    """Have a twin's configs say the eager functions, unless they say one that can be looked into.

    Other kernels show no pattern, and may run on an accelerator alone, or not be installed here.
    """
    for module in twin.modules():
        config = getattr(module, "config", None)
        if hasattr(config, _NAME) and why_hidden(implementation_of(module)):
            setattr(config, _NAME, "eager")


class Switch:
    """Has a config say our name, and `attend` be called by it; the lock is held."""

    def __init__(self, config: Any, attend: Callable[..., Any]) -> None:
        self._config = config
        found = _switched.setdefault(id(config), _Switched(config, getattr(config, _NAME, None)))
        found.count += 1
        if found.count == 1:
            name = found.before or "eager"
            if not name.startswith(PREFIX):
                register(name, attend)
                setattr(config, _NAME, f"{PREFIX}{name}")

    def remove(self) -> None:
        """Undo it; the lock is held."""
        config = self._config
        found = _switched[id(config)]
        found.count -= 1
        if not found.count:
            del _switched[id(config)]
            if getattr(config, _NAME, None) == f"{PREFIX}{found.before or 'eager'}":
                setattr(config, _NAME, found.before)


def register(name: str, attend: Callable[..., Any]) -> None:
    """Put ours beside the implementation of that name, in both tables."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return attend(name, module, *args, **kwargs)

    table: Any = AttentionInterface
    table.register(f"{PREFIX}{name}", attention)
    mask: Any = AttentionMaskInterface._global_mapping.get(name)
    if mask is not None:  # else there is none for ours, either
        AttentionMaskInterface.register(f"{PREFIX}{name}", mask)


def function_of(name: str, module: nn.Module) -> Callable[..., Any]:
    """Return the attention function that a module has under a name, `"eager"` for its own."""
    names = _globals_of(module)
    eager = eager_of(module)
    table = names.get("ALL_ATTENTION_FUNCTIONS")
    if name == "eager" or table is None:
        return eager
    found: Callable[..., Any] = table.get_interface(name, eager)
    return found


def eager_of(module: nn.Module) -> Callable[..., Any]:
    """Return the eager attention function of a module's family; `LookupError` where it has none."""
    names = _globals_of(module)
    found = names.get("eager_attention_forward")
    if found is None:
        others = [each for name, each in names.items() if name.startswith("eager_attention")]
        if not others:
            raise LookupError("its file has no eager attention function")
        found = others[0]
    return found  # type: ignore[no-any-return]


def _globals_of(module: nn.Module) -> dict[str, Any]:
    forward: Any = inspect.unwrap(type(module).forward)
    found: dict[str, Any] = forward.__globals__
    return found
