"""The static types of what `tenterhook.hooks` hands out where first-party plugins are installed."""

from typing import Any

from tenterhook.errors import HookError as HookError
from tenterhook.errors import HookWarning as HookWarning
from tenterhook.hook_type import HookType as HookType
from tenterhook.hooks._types import Controller as Controller
from tenterhook.hooks._types import Detector as Detector
from tenterhook.hooks._types import Edit as Edit
from tenterhook.hooks._types import Hook as Hook
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

__all__ = ["Controller", "Detector", "Edit", "Hook", "HookError", "HookType", "HookWarning"]

def __getattr__(name: str) -> Any: ...
