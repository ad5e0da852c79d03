"""Models by name: `load_model` hands the name to the plugin that serves it."""

import contextlib
import inspect
import json
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from tenterhook.errors import TenterhookError
from tenterhook.one_line import type_name
from tenterhook_capture.text_model import TextModel
from tenterhook_store.schemes import absolute_name, resolve_name

if TYPE_CHECKING:
    import torch

    from tenterhook.plugins import Registered

__all__ = [
    "BadModelName",
    "ModelName",
    "NoAttentionChoice",
    "NoSuchOption",
    "load_model",
    "name_of",
    "note_name",
]


@attrs.define(slots=False)
class BadModelName(TenterhookError, ValueError):
    """A name that no model can have."""

    name: str

    def __str__(self) -> str:
        return (
            f"{self.name!r} cannot name a model. Give a name on the Hugging Face hub, a folder, "
            "or a name with a scheme, as 'tiny:'."
        )


@attrs.define(slots=False)
class NoAttentionChoice(TenterhookError, ValueError):
    """An attention implementation is asked for of a loader that has no choice of them."""

    name: str
    attn_implementation: str

    def __str__(self) -> str:
        return (
            f"attn_implementation={self.attn_implementation!r}: the loader of {self.name!r} has no "
            "choice of attention implementations. Leave it out; models of transformers have one."
        )


@attrs.define(slots=False)
class NoSuchOption(TenterhookError, ValueError):
    """A loader is asked for what it has no parameter for."""

    name: str
    option: str
    value: Any

    def __str__(self) -> str:
        return (
            f"{self.option}={self.value!r}: the loader of {self.name!r} takes no {self.option}. "
            "Leave it out; models of transformers take it."
        )


LARGE = ("device_map", "tp_plan", "quantization_config", "max_memory")
"""What models that do not fit are loaded with; a loader that has no parameter for it refuses it."""


def _is_plain(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise TypeError(
            f"{attribute.name}={value!r} is no plain value, so no other process can be told. Give "
            "text, numbers, and mappings of them."
        ) from None


_LARGE: dict[str, Any] = {"validator": _is_plain, "hash": False, "kw_only": True}
"""How the fields are: no part of a hash, for they may be mappings."""


@attrs.frozen
class ModelName:
    """How a model was named, so that another process can load the same."""

    name: str
    dtype: str | None = None
    revision: str | None = None
    device: str | None = None
    """Where it ran; another process may have it elsewhere."""
    attn_implementation: str | None = None
    """How attention is computed; its patterns can be kept where it is `"eager"`."""
    device_map: Any = attrs.field(default=None, **_LARGE)
    """Which part of the model lies where: `"auto"`, or devices (`"disk"` too) by module name."""
    tp_plan: Any = attrs.field(default=None, **_LARGE)
    """How several processes share each layer: `"auto"`, or a plan by module name."""
    quantization_config: Any = attrs.field(default=None, **_LARGE)
    """How weights are kept in fewer bits: a word, as `"int8"`, or the settings of a method."""
    max_memory: Any = attrs.field(default=None, **_LARGE)
    """How much of each device a `device_map` may fill."""

    @classmethod
    def of(
        cls,
        name: str,
        dtype: object = None,
        revision: str | None = None,
        device: object = None,
        attn_implementation: str | None = None,
        **large: Any,
    ) -> "ModelName":
        """Return it, dtype and device as torch has them or as their names."""
        return cls(name, _plain(dtype), revision, _plain(device), attn_implementation, **large)

    def load(self) -> TextModel:
        """Load it; see `load_model`."""
        return load_model(
            self.name,
            dtype=self.dtype,
            device=self.device,
            revision=self.revision,
            attn_implementation=self.attn_implementation,
            **{option: getattr(self, option) for option in LARGE},
        )


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
    attn_implementation: str | None = None,
    device_map: Any = None,
    tp_plan: Any = None,
    quantization_config: Any = None,
    max_memory: Any = None,
) -> TextModel:
    """Load a model: `tiny:` and so on by the plugin of that scheme, other names from the hub.

    `dtype`, `device` and `revision` are handed on; the loader decides where they are `None`.
    `attn_implementation` is handed on where it is given: models of transformers compute attention
    patterns with `"eager"`, and other last bits of every row. So are, in plain values, those for
    models that do not fit: see `LanguageModel.from_pretrained` of tenterhook-transformers.

    Raises `BadModelName` for an empty one, `UnknownScheme`, `MissingPlugin` (saying what to
    install), `NoAttentionChoice`, `NoSuchOption`, `BrokenExtension` where the loader returns no
    `TextModel`, and what the loader raises.
    """
    if not name.strip() or "\0" in name:
        raise BadModelName(name)
    loader, rest = resolve_name("loaders", name)
    settings: dict[str, Any] = {"dtype": dtype, "device": device, "revision": revision}
    if attn_implementation is not None:
        if not _takes(loader.load(), "attn_implementation"):
            raise NoAttentionChoice(name, attn_implementation)
        settings["attn_implementation"] = attn_implementation
    asked = {
        "device_map": device_map,
        "tp_plan": tp_plan,
        "quantization_config": quantization_config,
        "max_memory": max_memory,
    }
    large = {option: value for option, value in asked.items() if value is not None}
    named = ModelName.of(name, dtype, revision, device, attn_implementation, **large)
    for option, value in large.items():
        if not _takes(loader.load(), option):
            raise NoSuchOption(name, option, value)
    model = _text_model(loader, loader.call(rest, **settings, **large))
    note_name(model, named)
    return model


def _text_model(loader: "Registered", found: Any) -> TextModel:
    """Return what the loader returned; raise `BrokenExtension` where it is no `TextModel`."""
    wanted = [name for name in vars(TextModel) if not name.startswith("_")]
    lacking = [name for name in wanted if not hasattr(found, name)]
    if lacking:
        raise loader.broken(
            f"returned a {type_name(found)}, which is no TextModel: it has no {', '.join(lacking)}"
        )
    model: TextModel = found
    return model


def _takes(load: Callable[..., object], keyword: str) -> bool:
    parameters = inspect.signature(load).parameters
    return keyword in parameters or any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()
    )


def _plain(setting: object) -> str | None:
    return None if setting is None else str(setting).removeprefix("torch.")
