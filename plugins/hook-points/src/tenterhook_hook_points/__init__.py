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
        UnknownActivation,
        UnknownHookPoint,
    )
    from tenterhook_hook_points.handles import LensHandle
    from tenterhook_hook_points.introspection import HookIntrospectionMixin
    from tenterhook_hook_points.point import HookPoint
    from tenterhook_hook_points.root import HookedRootModule

_HOMES = {
    "ActivationCache": "cache",
    "AmbiguousName": "errors",
    "BaseTensorConversion": "conversion",
    "HookIntrospectionMixin": "introspection",
    "HookPoint": "point",
    "HookedRootModule": "root",
    "LensHandle": "handles",
    "NotAGPT": "errors",
    "TensorConversion": "conversion",
    "UnknownActivation": "errors",
    "UnknownHookPoint": "errors",
}

__all__ = [
    "ActivationCache",
    "AmbiguousName",
    "BaseTensorConversion",
    "HookIntrospectionMixin",
    "HookPoint",
    "HookedRootModule",
    "LensHandle",
    "NotAGPT",
    "TensorConversion",
    "UnknownActivation",
    "UnknownHookPoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
