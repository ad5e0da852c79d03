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


@hookimpl
def tenterhook_layer_names() -> Sequence[Extension]:
    """Declare the standard names of layers, `resid_post.3` and so on."""
    return [
        Extension(
            "transformers",
            "tenterhook_transformers.layer_naming:name_layers",
            "Standard names of layers for many families of Hugging Face.",
            example="tenterhook_transformers.contract_examples:a_model",
        )
    ]


@hookimpl
def tenterhook_commands() -> Sequence[Extension]:
    """Declare the command that shows tokens."""
    return [
        Extension(
            "tokens",
            "tenterhook_transformers.tokens_command:tokens",
            "Show the tokens that a model makes of a text.",
        )
    ]
