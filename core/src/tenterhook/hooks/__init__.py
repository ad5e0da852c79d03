"""The hook types, and every hook class that an installed plugin registers.

`from tenterhook.hooks import LayerActivationDetector` gives the class of the plugin that
registers it; the canonical import is the plugin's own package.
"""

from typing import Any

from tenterhook.errors import HookError, HookWarning
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Controller, Detector, Edit, Hook

__all__ = ["Controller", "Detector", "Edit", "Hook", "HookError", "HookType", "HookWarning"]


def __dir__() -> list[str]:
    from tenterhook.plugins import default_manager

    return sorted({*__all__, *default_manager().extensions("hooks")})


def __getattr__(name: str) -> Any:
    from tenterhook.plugins import load_hook

    return load_hook(name)
