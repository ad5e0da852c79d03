"""What this distribution offers to tenterhook; imports nothing heavy."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_selectors() -> Sequence[Extension]:
    """Declare the words for tokens that everybody needs."""
    package = "tenterhook_selections.words"
    return [
        Extension("generated", f"{package}:generated", "The tokens that the model generated."),
        Extension("last", f"{package}:last", "The latest real token of each row."),
        Extension("prompt", f"{package}:prompt", "The tokens that were given."),
    ]
