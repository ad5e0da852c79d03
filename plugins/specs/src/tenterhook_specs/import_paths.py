"""Functions and classes by import path, `"package.module:name"`, and from where they may come."""

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from tenterhook_specs.errors import NotAllowed, NotDescribable


def path_of(code: Any) -> str:
    """Return the import path of a function or class.

    Raises `NotDescribable` for what cannot be imported again: a lambda, something made inside a
    function or in `__main__`, a bound method, an object that can be called.
    """
    module: str | None = getattr(code, "__module__", None)
    name: str | None = getattr(code, "__qualname__", None)
    what = f"{name or repr(code)}"
    if not module or not name or "<" in name:
        raise NotDescribable(what, "it has no import path. Define it by name in a module.")
    if module == "__main__":
        raise NotDescribable(what, "it is defined in a script. Move it to a module.")
    for each in (name, getattr(code, "__name__", name)):  # functions of C say odd longer names
        if _found(module, each) is code:
            return f"{module}:{each}"
    raise NotDescribable(what, f"{module}:{name} is something else. Define it by name.")


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def import_path(target: str, allow: Sequence[str]) -> Any:
    """Import what a path names, if it is in, and was defined in, what is allowed.

    `allow` are modules and packages, with all that is inside them. Raises `NotAllowed`, before
    anything is imported where the path itself is not allowed; `ValueError` for what is no path or
    names nothing.
    """
    module, colon, name = target.partition(":")
    parts = name.split(".")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *parts)):
        raise ValueError(f"{target!r} is no import path; write it as 'package.module:name'")
    if not _is_allowed(module, allow):
        raise NotAllowed(target, allow)
    try:
        found: Any = importlib.import_module(module)
        for at, part in enumerate(parts, 1):
            found = getattr(found, part)
            if isinstance(found, ModuleType):
                rest = ".".join(parts[at:]) or "name"
                other = found.__name__
                why = f"It leads through a module; write it as '{other}:{rest}'."
                raise NotAllowed(target, allow, why, other)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{target!r} names nothing: {error}") from error
    home = getattr(found, "__module__", None)
    if not _is_allowed(home or "", allow):
        raise NotAllowed(target, allow, f"It is defined in {home}.", home or "")
    return found


def _is_allowed(module: str, allow: Sequence[str]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in allow)
