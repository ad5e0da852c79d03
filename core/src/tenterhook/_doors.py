"""Doors: names of `tenterhook` that are packages of their own, `tenterhook.store` for one.

A door is a module that puts the package itself into its place, so that what is imported by either
name is the same object. Where the package is not installed, its door says what to install.

What happens at `from tenterhook.store.rows import Rows`:

1. Python runs the door, `tenterhook/store.py`, which calls `open_door`: the entry of
   `tenterhook.store` in `sys.modules` is now the package `tenterhook_store`.
2. For the submodule, Python would search that package's folder and load `rows.py` a second time,
   with other classes. `_behind` comes first and hands out `tenterhook_store.rows`, loaded once.
"""

import importlib
import importlib.util
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_packages: dict[str, str] = {}
"""The packages behind the doors that are open."""


def open_door(door: str, package: str, distribution: str) -> None:
    """Have the module named `door` be `package`, its submodules too.

    Raises as `import_from` does where the package is not installed.
    """
    # Until the package is imported, other threads see this module: its submodules are to be found,
    # and who waited for it is to find the package's names.
    opening: Any = sys.modules[door]
    opening.__path__ = []
    _packages[door] = package
    if _behind not in sys.meta_path:
        sys.meta_path.insert(0, _behind)
    found = import_from(distribution, package, wanted=door)
    opening.__getattr__ = partial(getattr, found)
    sys.modules[door] = found


def import_from(distribution: str, package: str, *, wanted: str) -> ModuleType:
    """Import the package that a distribution brings; `wanted` is what the user asked for.

    Raises `ModuleNotFoundError`, with the pip command and the package's name, where it is not
    installed. Where it is, and lacks something that it needs, that error is left as it is.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"{wanted} comes with {distribution}, which is not installed: "
            f"`pip install {distribution}`.",
            name=error.name,
        ) from None


class _Behind:
    """Finds the submodules of open doors, and gives each, loaded once, by its own name."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        door = next((each for each in _packages if name.startswith(f"{each}.")), None)
        real = "" if door is None else f"{_packages[door]}{name.removeprefix(door)}"
        if not real or importlib.util.find_spec(real) is None:
            return None
        return ModuleSpec(name, _behind, loader_state=real)

    def create_module(self, spec: Any) -> ModuleType:
        module = importlib.import_module(spec.loader_state)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: Any) -> None:
        module.__spec__ = module.__spec__.loader_state  # Python has written the door's over it


_behind: Any = _Behind()
