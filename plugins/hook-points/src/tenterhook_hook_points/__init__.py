"""Hook points: identity modules that name the activations inside a module of your own.

Importing this imports no torch; each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_hook_points.cache import ActivationCache
    from tenterhook_hook_points.conversion import BaseTensorConversion, TensorConversion
    from tenterhook_hook_points.errors import (
        AmbiguousName,
        NotAGPT,
        NotATransformer,
        NoTokenizer,
        NotOneToken,
        UnknownActivation,
        UnknownHookPoint,
    )
    from tenterhook_hook_points.handles import LensHandle
    from tenterhook_hook_points.introspection import HookIntrospectionMixin
    from tenterhook_hook_points.point import HookPoint
    from tenterhook_hook_points.root import HookedRootModule
    from tenterhook_hook_points.spellings import get_act_name
    from tenterhook_hook_points.transformer import HookedTransformer

_HOMES = {
    "ActivationCache": "cache",
    "AmbiguousName": "errors",
    "BaseTensorConversion": "conversion",
    "HookIntrospectionMixin": "introspection",
    "HookPoint": "point",
    "HookedRootModule": "root",
    "HookedTransformer": "transformer",
    "LensHandle": "handles",
    "NoTokenizer": "errors",
    "NotAGPT": "errors",
    "NotATransformer": "errors",
    "NotOneToken": "errors",
    "TensorConversion": "conversion",
    "UnknownActivation": "errors",
    "UnknownHookPoint": "errors",
    "get_act_name": "spellings",
}

__all__ = [
    "ActivationCache",
    "AmbiguousName",
    "BaseTensorConversion",
    "HookIntrospectionMixin",
    "HookPoint",
    "HookedRootModule",
    "HookedTransformer",
    "LensHandle",
    "NoTokenizer",
    "NotAGPT",
    "NotATransformer",
    "NotOneToken",
    "TensorConversion",
    "UnknownActivation",
    "UnknownHookPoint",
    "get_act_name",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
