"""Models by name: `load_model` hands the name to the plugin that serves it."""

from typing import TYPE_CHECKING

from tenterhook.errors import TenterhookError
from tenterhook.schemes import load_served

if TYPE_CHECKING:
    import torch

    from tenterhook.text_model import TextModel


class BadModelName(TenterhookError, ValueError):
    """A name that no model can have."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name!r} cannot name a model. Give a name on the Hugging Face hub, a folder, "
            "or a name with a scheme, as 'tiny:'."
        )


def load_model(
    name: str,
    *,
    dtype: "str | torch.dtype | None" = None,
    device: "str | torch.device | None" = None,
    revision: str | None = None,
) -> "TextModel":
    """Load a model: `tiny:` and so on by the plugin of that scheme, other names from the hub.

    `dtype`, `device` and `revision` are handed on; the loader decides where they are `None`.
    Raises `UnknownScheme`, `MissingPlugin` (saying what to install), and what the loader raises.
    """
    if not name.strip() or "\0" in name:
        raise BadModelName(name)
    load, rest = load_served("loaders", name)
    model: TextModel = load(rest, dtype=dtype, device=device, revision=revision)
    return model
