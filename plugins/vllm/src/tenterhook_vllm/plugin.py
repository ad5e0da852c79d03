"""What this distribution adds to tenterhook: models that vLLM runs."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_loaders() -> Sequence[Extension]:
    """Declare the loader of models; it needs vLLM when a model is loaded."""
    return [
        Extension(
            "vllm",
            "tenterhook_vllm.model_loader:load",
            "Run a model of the hub or a folder by vLLM.",
        )
    ]
