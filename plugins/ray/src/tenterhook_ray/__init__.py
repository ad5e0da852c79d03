"""Runs captures on a Ray cluster: the engine `ray`, and what it raises."""

from tenterhook_ray.engine import RayEngine
from tenterhook_ray.errors import ActorsDied, NoCluster, NoRoom

__all__ = ["ActorsDied", "NoCluster", "NoRoom", "RayEngine"]
