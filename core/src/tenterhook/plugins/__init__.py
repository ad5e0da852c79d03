"""Which plugins there are and what they offer: found through entry points, looked up by name.

A plugin is asked when it is loaded; nothing here runs in a forward pass.
A plugin that fails in any way is left out whole and becomes a `PluginProblem`, and the others work.
Where two offer one name, that name serves neither, and all else of both works.
"""

from tenterhook.one_line import error_line as error_line
from tenterhook.plugins.default import default_manager as default_manager
from tenterhook.plugins.default import load_hook as load_hook
from tenterhook.plugins.default import load_store as load_store
from tenterhook.plugins.default import using as using
from tenterhook.plugins.entry_points import BLOCK_VARIABLE as BLOCK_VARIABLE
from tenterhook.plugins.entry_points import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP
from tenterhook.plugins.entry_points import ONLY_VARIABLE as ONLY_VARIABLE
from tenterhook.plugins.entry_points import STRICT_VARIABLE as STRICT_VARIABLE
from tenterhook.plugins.first_party import FIRST_PARTY as FIRST_PARTY
from tenterhook.plugins.first_party import RESERVED as RESERVED
from tenterhook.plugins.manager import PluginManager as PluginManager
from tenterhook.plugins.problems import AmbiguousExtension as AmbiguousExtension
from tenterhook.plugins.problems import BrokenExtension as BrokenExtension
from tenterhook.plugins.problems import BrokenPlugins as BrokenPlugins
from tenterhook.plugins.problems import MissingDependency as MissingDependency
from tenterhook.plugins.problems import PluginError as PluginError
from tenterhook.plugins.problems import PluginProblem as PluginProblem
from tenterhook.plugins.problems import PluginWarning as PluginWarning
from tenterhook.plugins.problems import UnknownExtension as UnknownExtension
from tenterhook.plugins.registered import Registered as Registered
