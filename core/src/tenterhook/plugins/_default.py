"""The manager that tenterhook itself uses, and the attributes of modules that plugins fill."""

import threading
import warnings
from importlib import metadata
from typing import Any

from tenterhook.errors import closest
from tenterhook.plugins._entry_points import BLOCK_VARIABLE, ONLY_VARIABLE, normal_name
from tenterhook.plugins._first_party import FIRST_PARTY
from tenterhook.plugins._manager import PluginManager
from tenterhook.plugins._problems import PluginWarning

_default: PluginManager | None = None
_default_lock = threading.RLock()


def default_manager() -> PluginManager:
    """Return the manager that `tenterhook` itself uses; the first call loads what is installed.

    Warns once, with `PluginWarning`, of each plugin that was left out.
    """
    global _default
    with _default_lock:
        if _default is None:
            # Set before loading: a plugin that asks for the manager while it is imported gets
            # this one, as far as it is.
            _default = PluginManager(autoload=False)
            for problem in _default.load_entry_points():
                warnings.warn(str(problem), PluginWarning, stacklevel=2)
        return _default


def load_hook(name: str) -> Any:
    """Return the detector or controller class of that name, for `tenterhook.hooks.NAME`."""
    return _load_attribute("tenterhook.hooks", name, ("detectors", "controllers"))


def load_store(name: str) -> Any:
    """Return the store class of that name, for `tenterhook.store.NAME`."""
    return _load_attribute("tenterhook.store", name, ("stores",))


def _load_attribute(module: str, name: str, kinds: tuple[str, ...]) -> Any:
    """Raise as a module's `__getattr__` should: `AttributeError` where nobody has such a name,
    `ImportError` where the plugin that has it is missing or broken."""
    if name.startswith("_"):  # asked by import machinery and debuggers; no plugin is worth loading
        raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name)
    manager = default_manager()
    known = {found: each for kind in kinds for found, each in manager.extensions(kind).items()}
    if name in known:
        try:
            return known[name].extension.load()
        except AttributeError as error:
            raise ImportError(
                f"Plugin {known[name].plugin!r} has no {known[name].extension.target!r}, which it "
                f"declares as {name!r}. Update {known[name].distribution or 'it'}.",
                name=module,
            ) from error
    for kind in kinds:
        if distribution := FIRST_PARTY[kind].get(name):
            raise ImportError(_why_missing(manager, name, distribution), name=module)
    close = closest(name, known)
    hint = f"Did you mean {close[0]!r}?" if close else "See `tenterhook plugins list`."
    raise AttributeError(
        f"module {module!r} has no attribute {name!r}, and no installed plugin offers it. {hint}",
        name=name,
    )


def _why_missing(manager: PluginManager, name: str, distribution: str) -> str:
    for problem in manager.problems:
        if normal_name(problem.distribution or "") == distribution:
            return f"{name} is missing. {problem}"
    if not _is_installed(distribution):
        return f"{name} is in a plugin that is not installed: `pip install {distribution}`."
    return (
        f"{name} is in {distribution}, which is installed and was not loaded. "
        f"See the environment variables {ONLY_VARIABLE} and {BLOCK_VARIABLE}."
    )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
