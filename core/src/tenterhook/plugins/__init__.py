"""Which plugins there are and what they offer: found through entry points, looked up by name.

A plugin is asked when it is loaded; nothing here runs in a forward pass.
A plugin that fails in any way is left out whole and becomes a `PluginProblem`, and the others work.
Where two offer one name, that name serves neither, and all else of both works.
"""

from tenterhook.one_line import error_line
from tenterhook.plugins.default import default_manager, load_hook, load_store, using
from tenterhook.plugins.entry_points import (
    BLOCK_VARIABLE,
    ENTRY_POINT_GROUP,
    ONLY_VARIABLE,
    STRICT_VARIABLE,
)
from tenterhook.plugins.first_party import FIRST_PARTY, RESERVED
from tenterhook.plugins.manager import PluginManager
from tenterhook.plugins.problems import (
    AmbiguousExtension,
    BrokenExtension,
    BrokenPlugins,
    MissingDependency,
    PluginError,
    PluginProblem,
    PluginWarning,
    UnknownExtension,
)
from tenterhook.plugins.registered import Registered

__all__ = [
    "BLOCK_VARIABLE",
    "ENTRY_POINT_GROUP",
    "FIRST_PARTY",
    "ONLY_VARIABLE",
    "RESERVED",
    "STRICT_VARIABLE",
    "AmbiguousExtension",
    "BrokenExtension",
    "BrokenPlugins",
    "MissingDependency",
    "PluginError",
    "PluginManager",
    "PluginProblem",
    "PluginWarning",
    "Registered",
    "UnknownExtension",
    "default_manager",
    "error_line",
    "load_hook",
    "load_store",
    "using",
]
