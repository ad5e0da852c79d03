"""The manager that tenterhook itself uses, and the attributes of modules that plugins fill."""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import Any

from tenterhook.plugins.entry_points import STRICT_VARIABLE
from tenterhook.plugins.locking import lock
from tenterhook.plugins.manager import PluginManager
from tenterhook.plugins.problems import AmbiguousExtension, PluginWarning, UnknownExtension

_default: PluginManager | None = None
_here = threading.local()


def default_manager() -> PluginManager:
    """Return the manager that `tenterhook` itself uses; the first call loads what is installed.

    Warns once, with `PluginWarning`, of each plugin that was left out or clashes with another; with
    `TENTERHOOK_STRICT_PLUGINS=1` raises `BrokenPlugins` instead, each time. A plugin that asks for
    it while it is imported gets it as far as it is.
    """
    global _default
    with lock:
        if _default is None:
            strict = os.environ.get(STRICT_VARIABLE, "") not in ("", "0")
            _default = PluginManager(autoload=False, strict=strict)
            _default._is_due = True
        manager = _default
    if not manager._is_due or getattr(_here, "loads", False):
        return manager
    # Threads that ask at once all load, which is how they wait for each other: with a lock, an
    # import that asks would wait for a thread that waits for that import.
    _here.loads = True
    try:
        problems = manager.load_entry_points()
    except BaseException:
        with lock:
            _default = None if _default is manager else _default
        raise
    finally:
        _here.loads = False
    for problem in problems:
        warnings.warn(str(problem), PluginWarning, stacklevel=2)
    return manager


@contextmanager
def using(manager: PluginManager) -> Iterator[PluginManager]:
    """Have `manager` be what `tenterhook` uses in this process, all threads of it, for a block.

    For programs that choose their plugins, and for tests: names as `tenterhook.hooks.X` or `tiny:`
    are then looked up there.
    """
    global _default
    with lock:
        before, _default = _default, manager
    try:
        yield manager
    finally:
        with lock:
            _default = before


def load_hook(name: str) -> Any:
    """Return the detector or controller class of that name, for `tenterhook.hooks.NAME`."""
    return _load_attribute("tenterhook.hooks", "hooks", name)


def load_store(name: str) -> Any:
    """Return the store class of that name, for `tenterhook.store.NAME`."""
    return _load_attribute("tenterhook_store", "stores", name)


def _load_attribute(module: str, kind: str, name: str) -> Any:
    """Raise as a module's `__getattr__` should: `AttributeError` where nobody has such a name,
    `ImportError` where the plugin that has it is missing or broken."""
    # Private names are asked by import machinery and debuggers, submodules by `from` imports; no
    # plugin is worth loading for them.
    path = getattr(sys.modules.get(module), "__path__", None)
    if name.startswith("_") or (path and PathFinder.find_spec(f"{module}.{name}", path)):
        raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name)
    manager = default_manager()
    if name not in manager.extensions(kind) and manager._follows_installed:
        for problem in manager.load_entry_points():  # of what was installed since
            warnings.warn(str(problem), PluginWarning, stacklevel=4)
    try:
        found = manager._registered(kind, name)
    except (AmbiguousExtension, UnknownExtension) as error:
        if isinstance(error, UnknownExtension) and not error.distribution:
            message = f"module {module!r} has no attribute {name!r}. {error}"
            raise AttributeError(message, name=name) from None
        raise ImportError(str(error), name=module) from error
    return found.load()
