"""Hooks that watch and change what happens inside PyTorch models.

`import tenterhook` loads no plugin and no torch; each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tenterhook._version import __version__

if TYPE_CHECKING:
    from tenterhook._dispatch.frames import carry
    from tenterhook.activations import Inputs
    from tenterhook.context import HookContext
    from tenterhook.errors import (
        HookError,
        LayerConflict,
        NeverFired,
        NotClean,
        TenterhookError,
        UnknownLayer,
    )
    from tenterhook.extensions import Extension
    from tenterhook.hookspecs import hookimpl
    from tenterhook.layers import LayerIndex
    from tenterhook.model import HookedModel, assert_clean, attach
    from tenterhook.plugins import PluginManager
    from tenterhook.registry import HookRegistry
    from tenterhook.scopes.captured import Captured
    from tenterhook.selections import Selection

__all__ = [
    "Captured",
    "Extension",
    "HookContext",
    "HookError",
    "HookRegistry",
    "HookedModel",
    "Inputs",
    "LayerConflict",
    "LayerIndex",
    "NeverFired",
    "NotClean",
    "PluginManager",
    "Selection",
    "TenterhookError",
    "UnknownLayer",
    "__version__",
    "assert_clean",
    "attach",
    "carry",
    "hookimpl",
]

_HOMES = {
    "Captured": "scopes.captured",
    "Extension": "extensions",
    "HookContext": "context",
    "HookError": "errors",
    "HookRegistry": "registry",
    "HookedModel": "model",
    "Inputs": "activations",
    "LayerConflict": "errors",
    "LayerIndex": "layers",
    "NeverFired": "errors",
    "NotClean": "errors",
    "PluginManager": "plugins",
    "Selection": "selections",
    "TenterhookError": "errors",
    "UnknownLayer": "errors",
    "assert_clean": "model",
    "attach": "model",
    "carry": "_dispatch.frames",
    "hookimpl": "hookspecs",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
