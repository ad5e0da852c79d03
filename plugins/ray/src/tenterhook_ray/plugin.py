"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_engines() -> Sequence[Extension]:
    """Declare the engine of this distribution."""
    return [
        Extension(
            "ray",
            "tenterhook_ray.engine:RayEngine",
            "Actors of a Ray cluster do units, each with a model of its own.",
        ),
    ]
