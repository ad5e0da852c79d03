"""The hook types, and every hook class that an installed plugin registers.

`from tenterhook.hooks import LayerActivationDetector` gives the class of the plugin that
registers it; the canonical import is the plugin's own package.
"""

from typing import TYPE_CHECKING, Any

from tenterhook.errors import HookError, HookWarning
from tenterhook.hooks._types import Controller, Detector, Hook, HookType

if TYPE_CHECKING:  # the static types of first-party names, where their plugins are installed
    from tenterhook_edits import AddVector as AddVector
    from tenterhook_edits import Clamp as Clamp
    from tenterhook_edits import MeanAblate as MeanAblate
    from tenterhook_edits import Patch as Patch
    from tenterhook_edits import ProjectOut as ProjectOut
    from tenterhook_edits import Scale as Scale
    from tenterhook_edits import ZeroAblate as ZeroAblate
    from tenterhook_function_controller import FunctionController as FunctionController
    from tenterhook_layer_activation import LayerActivationDetector as LayerActivationDetector
    from tenterhook_model_io import ModelInputDetector as ModelInputDetector
    from tenterhook_model_io import ModelOutputDetector as ModelOutputDetector
    from tenterhook_sae import BatchTopKSae as BatchTopKSae
    from tenterhook_sae import JumpReLUSae as JumpReLUSae
    from tenterhook_sae import L1Sae as L1Sae
    from tenterhook_sae import TopKSae as TopKSae

__all__ = ["Controller", "Detector", "Hook", "HookError", "HookType", "HookWarning"]


def __dir__() -> list[str]:
    from tenterhook.plugins import default_manager

    manager = default_manager()
    return sorted({*__all__, *manager.extensions("detectors"), *manager.extensions("controllers")})


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tenterhook.plugins import load_hook

    return load_hook(name)
