"""The loader of `points:`: a GPT-2 under any name, as a model with hook points."""

from typing import TYPE_CHECKING

from tenterhook.errors import TenterhookError
from tenterhook_capture.loading import load_model

if TYPE_CHECKING:
    import torch

    from tenterhook_transformers import LanguageModel


class NotAGPT(TenterhookError, ValueError):
    """A model that cannot be loaded with hook points."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name, self.why = name, why

    def __str__(self) -> str:
        return (
            f"{self.name!r} cannot be loaded with hook points: {self.why} 'points:' takes GPT-2 "
            f"models; load it without hook points as {self.name!r}, whose layers have names too."
        )


def load(
    name: str,
    *,
    dtype: "torch.dtype | str | None" = None,
    device: "torch.device | str | None" = None,
    revision: str | None = None,
) -> "LanguageModel":
    """Load the model `name`, as `gpt2` or `tiny:`, and give it hook points.

    Returns a `LanguageModel` around a `HookedGPT`, which is its `module`. Raises `NotAGPT` (a
    `ValueError`) for another kind of model, and what loading `name` raises.
    """
    from tenterhook_hook_points.language_model import with_points

    return with_points(load_model(name, dtype=dtype, device=device, revision=revision), name)


def small() -> str:
    """Return the name of a model for contract tests; it comes with `tenterhook-tiny`."""
    return "tiny:"
