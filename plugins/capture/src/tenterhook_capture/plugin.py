"""What this distribution offers to tenterhook; imports nothing heavy."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_engines() -> Sequence[Extension]:
    """Declare the engine that every capture has."""
    return [
        Extension(
            "local",
            "tenterhook_capture.engine:LocalEngine",
            "Does one unit after the other in this process.",
        )
    ]
