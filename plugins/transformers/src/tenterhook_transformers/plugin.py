"""What this distribution adds to tenterhook: models and data sets that are named as on the hub."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_loaders() -> Sequence[Extension]:
    """Declare the loader of models; it serves names without a scheme too."""
    return [
        Extension(
            "hf",
            "tenterhook_transformers:load",
            "Load a language model from the Hugging Face hub or a folder.",
        )
    ]


@hookimpl
def tenterhook_datasets() -> Sequence[Extension]:
    """Declare the source of documents; it serves names without a scheme too."""
    return [
        Extension(
            "hf",
            "tenterhook_transformers:read",
            "Read a field of a Hugging Face data set, from the hub or a folder.",
        )
    ]
