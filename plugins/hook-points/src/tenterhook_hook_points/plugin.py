"""What this distribution adds to tenterhook: a loader of models with hook points."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_loaders() -> Sequence[Extension]:
    """Declare the loader."""
    return [
        Extension(
            "points",
            "tenterhook_hook_points.loader:load",
            "Load a GPT-2 or a Llama-like model with hook points: points:gpt2, points:tiny:.",
            example="tenterhook_hook_points.loader:small",
        )
    ]
