"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_observers() -> Sequence[Extension]:
    """Declare the observer of this distribution."""
    return [
        Extension(
            "run-log",
            "tenterhook_run_log.observer:run_log",
            "Log what runs do as JSON lines to the file that TENTERHOOK_RUN_LOG names.",
        ),
    ]
