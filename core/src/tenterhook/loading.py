"""Models by name: `load_model` hands the name to the plugin that serves it."""

import contextlib
import weakref
from typing import TYPE_CHECKING

import attrs

from tenterhook.errors import TenterhookError
from tenterhook.schemes import absolute_name, load_served

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


@attrs.frozen
class ModelName:
    """How a model was named, so that another process can load the same."""

    name: str
    dtype: str | None = None
    revision: str | None = None
    device: str | None = None
    """Where it ran; another process may have it elsewhere."""

    @classmethod
    def of(cls, name: str, dtype: object, revision: str | None, device: object) -> "ModelName":
        """Return it, dtype and device as torch has them or as their names."""
        return cls(name, _plain(dtype), revision, _plain(device))

    def load(self) -> "TextModel":
        """Load it; see `load_model`."""
        return load_model(self.name, dtype=self.dtype, device=self.device, revision=self.revision)


_NAMES: "weakref.WeakKeyDictionary[object, ModelName]" = weakref.WeakKeyDictionary()


def note_name(model: object, name: ModelName) -> None:
    """Remember how a model was named, for as long as it lives; loaders of one's own call this."""
    with contextlib.suppress(TypeError):  # nothing can be noted of it; then it has no name
        _NAMES[model] = attrs.evolve(name, name=absolute_name(name.name))


def name_of(model: object) -> ModelName | None:
    """Return how a model was named; `None` for one that was not loaded by a name."""
    try:
        return _NAMES.get(model)
    except TypeError:
        return None


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
    note_name(model, ModelName.of(name, dtype, revision, device))
    return model


def _plain(setting: object) -> str | None:
    return None if setting is None else str(setting).removeprefix("torch.")
