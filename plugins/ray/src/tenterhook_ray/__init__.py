"""Runs captures on a Ray cluster: the engine `ray`, and what it raises.

Importing this imports little; each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tenterhook.lazy_names import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
