"""What this distribution adds to tenterhook: the commands that show what a run holds."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_commands() -> Sequence[Extension]:
    """Declare the commands."""
    return [
        Extension(
            "view",
            "tenterhook_view._cli:view",
            "Write a page that shows the tokens of a run, coloured by its activations.",
        ),
        Extension(
            "plot",
            "tenterhook_view._cli:plot",
            "Draw a picture of a run, SVG or PNG.",
            needs="tenterhook-view[plot]",
        ),
    ]
