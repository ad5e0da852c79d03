"""The static types of the names that `tenterhook` imports when they are used."""

from tenterhook._dispatch.frames import carry as carry
from tenterhook._version import __version__ as __version__
from tenterhook.activations import Inputs as Inputs
from tenterhook.context import HookContext as HookContext
from tenterhook.errors import HookError as HookError
from tenterhook.errors import LayerConflict as LayerConflict
from tenterhook.errors import NeverFired as NeverFired
from tenterhook.errors import NotClean as NotClean
from tenterhook.errors import TenterhookError as TenterhookError
from tenterhook.errors import UnknownLayer as UnknownLayer
from tenterhook.extensions import Extension as Extension
from tenterhook.hookspecs import hookimpl as hookimpl
from tenterhook.layers import LayerIndex as LayerIndex
from tenterhook.model import HookedModel as HookedModel
from tenterhook.model import assert_clean as assert_clean
from tenterhook.model import attach as attach
from tenterhook.plugins import PluginManager as PluginManager
from tenterhook.registry import HookRegistry as HookRegistry
from tenterhook.scopes.captured import Captured as Captured
from tenterhook.selections import Selection as Selection

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
