"""The parameters of what plugins offer, read from signatures: names, types, defaults."""

import inspect
import sys
import typing
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import attrs

RESERVED = frozenset({"layer_signature", "hook_type", "hook_id", "store"})
"""What every hook is given by who puts it on a layer; no parameters of its own."""


def parameters_of(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters that can be given by name, annotations resolved where they can be.

    One that is for type checkers alone stays the text that it is.
    """
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):  # some builtins have none
        return {}
    hints = _hints(call)
    return {
        name: parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


_classes: "weakref.WeakKeyDictionary[type, type]" = weakref.WeakKeyDictionary()


def parameters_class(hook_class: type) -> type:
    """Return an attrs class of a hook's own parameters, with the types and defaults it states.

    The same for each call: making one, and what cattrs makes of it, takes a hundred times as long
    as the hook.
    """
    found = _classes.get(hook_class)
    if found is None:
        found = _classes[hook_class] = _parameters_class(hook_class)
    return found


def _parameters_class(hook_class: type) -> type:
    fields = {
        name: attrs.field(
            type=_type(parameter.annotation),
            default=attrs.NOTHING if parameter.default is parameter.empty else parameter.default,
            alias=name,
        )
        for name, parameter in parameters_of(hook_class).items()
        if name not in RESERVED
    }
    return attrs.make_class(hook_class.__name__, fields, frozen=True, kw_only=True, eq=False)


def _type(annotation: Any) -> Any:
    anything = annotation in (inspect.Parameter.empty, object) or isinstance(annotation, str)
    return Any if anything else annotation


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function, or of a class's `__init__`; those that resolve."""
    function: Any = call.__init__ if isinstance(call, type) else call  # type: ignore[misc]
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - one name that is for type checkers alone spoils all
        names = getattr(sys.modules.get(getattr(function, "__module__", "")), "__dict__", {})
        return {
            name: _evaluated(annotation, names)
            for name, annotation in getattr(function, "__annotations__", {}).items()
        }


def _evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:
    try:
        return typing.get_type_hints(_annotated(annotation), dict(names))["it"]
    except Exception:  # noqa: BLE001 - it is for type checkers alone
        return annotation


def _annotated(annotation: Any) -> Any:
    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    return holder
