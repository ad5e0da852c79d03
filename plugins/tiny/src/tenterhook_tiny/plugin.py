"""What this distribution gives tenterhook: a model and some text, both under the scheme `tiny`."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_loaders() -> Sequence[Extension]:
    """Declare the model."""
    return [
        Extension("tiny", "tenterhook_tiny:load", "a small trained GPT-2 that needs no network")
    ]


@hookimpl
def tenterhook_datasets() -> Sequence[Extension]:
    """Declare the text."""
    return [
        Extension(
            "tiny",
            "tenterhook_tiny:read",
            "passages that the small model never trained on",
            example="tenterhook_tiny.sample:sample_name",
        )
    ]
