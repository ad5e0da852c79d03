"""What this distribution adds to tenterhook: the commands that show analyses."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_commands() -> Sequence[Extension]:
    """Declare the commands."""
    return [
        Extension(
            "lens",
            "tenterhook_analysis._cli:lens",
            "Show what a model would say after each of its layers.",
        ),
        Extension(
            "patch",
            "tenterhook_analysis._cli:patch",
            "Patch each layer and token of a prompt with another prompt's.",
        ),
        Extension(
            "steer",
            "tenterhook_analysis._cli:steer",
            "Go on with prompts while a vector is added, at each of several scales.",
        ),
    ]
