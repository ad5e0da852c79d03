"""Which plugins there are and what they offer: found through entry points, looked up by name.

A plugin is registered and asked once; nothing here runs in a forward pass.
A plugin is in whole or not at all: one that fails in any way becomes a `PluginProblem`, and the
others work.
"""

from tenterhook.plugins._default import default_manager, load_hook, load_store, using
from tenterhook.plugins._entry_points import (
    BLOCK_VARIABLE,
    ENTRY_POINT_GROUP,
    ONLY_VARIABLE,
    STRICT_VARIABLE,
)
from tenterhook.plugins._first_party import FIRST_PARTY
from tenterhook.plugins._manager import PluginManager
from tenterhook.plugins._problems import (
    BrokenPlugins,
    MissingDependency,
    PluginError,
    PluginProblem,
    PluginWarning,
    UnknownExtension,
    said,
)
from tenterhook.plugins._registered import Registered

__all__ = [
    "BLOCK_VARIABLE",
    "ENTRY_POINT_GROUP",
    "FIRST_PARTY",
    "ONLY_VARIABLE",
    "STRICT_VARIABLE",
    "BrokenPlugins",
    "MissingDependency",
    "PluginError",
    "PluginManager",
    "PluginProblem",
    "PluginWarning",
    "Registered",
    "UnknownExtension",
    "default_manager",
    "load_hook",
    "load_store",
    "said",
    "using",
]
