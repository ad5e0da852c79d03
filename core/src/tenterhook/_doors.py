"""Doors: names of `tenterhook` that are packages of their own, `tenterhook.store` for one.

A door is a module that puts the package itself into its place, so that what is imported by either
name is the same object. Where the package is not installed, its door says what to install.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType


def open_door(door: str, package: str, distribution: str) -> None:
    """Have the module named `door` be `package`, its submodules too.

    Raises `ImportError`, with the pip command, where the package is not installed.
    """
    try:
        found = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something that it needs
        raise ModuleNotFoundError(
            f"{door} comes with {distribution}, which is not installed: "
            f"`pip install {distribution}`.",
            name=door,
        ) from None
    _packages[door] = package
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    sys.modules[door] = found


_packages: dict[str, str] = {}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `tenterhook.store.rows` as `tenterhook_store.rows`; else Python would load it twice."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        door, _, _ = name.rpartition(".")
        while door and door not in _packages:
            door = door.rpartition(".")[0]
        if not door:
            return None
        real = f"{_packages[door]}{name.removeprefix(door)}"
        if importlib.util.find_spec(real) is None:
            return None
        return importlib.machinery.ModuleSpec(name, _Loader(real))


class _Loader(importlib.abc.Loader):
    def __init__(self, real: str) -> None:
        self.real = real
        self.spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.real)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has set the door's


_finder = _Finder()
