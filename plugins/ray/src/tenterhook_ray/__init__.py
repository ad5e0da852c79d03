"""Runs captures on a Ray cluster: the engine `ray`, and what it raises.

Importing this imports little; each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_ray.engine import RayEngine
    from tenterhook_ray.errors import ActorsDied, NoCluster, NoRoom

_HOMES = {
    "ActorsDied": "errors",
    "NoCluster": "errors",
    "NoRoom": "errors",
    "RayEngine": "engine",
}

__all__ = ["ActorsDied", "NoCluster", "NoRoom", "RayEngine"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
