"""Hook points: identity modules that name the activations inside a module of your own.

Importing this imports no torch; each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
