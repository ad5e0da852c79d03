"""The loader of `points:`: a GPT-2 or a Llama-like model, as one with hook points.

Whichever plugin has the loader of the name loads the model; this one rebuilds it.
"""

from typing import TYPE_CHECKING

from tenterhook_hook_points.errors import NotAGPT
from tenterhook_store.schemes import resolve_name

if TYPE_CHECKING:
    import torch

    from tenterhook_transformers import LanguageModel


def load(
    name: str,
    *,
    dtype: "torch.dtype | str | None" = None,
    device: "torch.device | str | None" = None,
    revision: str | None = None,
) -> "LanguageModel":
    """Load the model `name`, as `gpt2` or `tiny:`, and give it hook points.

    `dtype`, `device` and `revision` go to the loader of `name`. Returns a `LanguageModel` around a
    `HookedGPT` or `HookedLlama`, which is its `module`; it needs the extra
    `tenterhook-hook-points[models]`.

    Raises `NotAGPT` (a `ValueError`) for another kind of model, `UnknownScheme` or `MissingPlugin`
    (each a `LookupError`) where no plugin loads `name`, and what that plugin's loader raises.
    """
    if not name.strip():
        raise NotAGPT(name, "that is no name of a model.")
    loader, rest = resolve_name("loaders", name)
    model = loader.call(rest, dtype=dtype, device=device, revision=revision)
    from tenterhook_hook_points.language_model import with_points

    return with_points(model, name)


def small() -> str:
    """Return the name of a model for contract tests; it comes with `tenterhook-tiny`."""
    return "tiny:"
