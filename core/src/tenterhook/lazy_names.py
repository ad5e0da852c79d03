"""Names of a package that are imported when they are first used.

Listing plugins imports the package of each, so a package imports nothing heavy by itself.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package whose names are in its submodules.

    `homes` has the submodule of each name: `{"Probe": "probes"}` for `package.probes.Probe`. The
    package keeps a name once it was imported. Names that it does not have raise `AttributeError`.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted({*vars(sys.modules[package]), *homes})
