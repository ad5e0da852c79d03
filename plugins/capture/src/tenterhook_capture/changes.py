"""What changes a model's numbers while it is captured: which hooks, and by which settings.

A controller counts by its id, and by its settings where they can be told: parameters of its class,
weights, or instead what it says of itself by a method `describe_change`. Where that is all there
is to know of it, an id that nobody chose is left out, so that the same call finds its run again: of
one that has `describe_change`, and of one whose class a plugin offers and whose parameters are no
functions.
"""

import ctypes
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook.activity import changing
from tenterhook.hook_type import HookType
from tenterhook.plugins import default_manager
from tenterhook.registry import HookRegistry
from tenterhook_specs import NotDescribable, parameters_of, plain
from tenterhook_specs.parameters import RESERVED


@attrs.frozen
class Changes:
    """What is at work on a model."""

    said: tuple[str, ...] = ()
    """A phrase for each controller and replacement, and each `torch.autocast`, sorted."""
    fingerprint: str | None = None
    """Of the settings, and of the order in which those of one layer run; `None` without any."""


def changes_at_work(registry: HookRegistry) -> Changes:
    """Return what changes the numbers of a model here and now."""
    said: list[str] = []
    settings: dict[str, list[Any]] = {}
    for at_work in changing(registry):
        hook, found = getattr(at_work, "hook", None), None
        if hook is None:
            phrase = at_work.replaces
        else:
            told = _Told()
            found = told.hook(hook, at_work.selection)
            own_id = "" if told.whole and _is_random(hook.id) else f" {hook.id}"
            phrase = f"{type(hook).__name__}{own_id} at {at_work.layer}"
        said.append(phrase)
        settings.setdefault(at_work.layer, []).append([phrase, found])
    text = json.dumps(settings, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest() if settings else None
    return Changes((*sorted(said), *_autocasts()), fingerprint)


class _Told:
    """Settings as plain JSON values, tensors by their hash; `whole` until something is left out."""

    def __init__(self) -> None:
        self.whole = True

    def hook(self, hook: Any, selector: Any) -> dict[str, Any]:
        """Return what can be told of a controller, and of the selector of its part."""
        found: dict[str, Any] = {}
        describe_change = getattr(hook, "describe_change", None)
        if callable(describe_change):
            found["change"] = self.value(describe_change())
        else:
            found["parameters"] = self._parameters(hook)
            self.whole = self.whole and _is_offered(type(hook))
            if isinstance(hook, nn.Module):
                found["weights"] = self.value(hook.state_dict())
        if hook.hook_type is not HookType.FORWARD:
            found["type"] = hook.hook_type.value
        if selector is not None:
            found["selection"] = self.value(getattr(selector, "selection", selector))
        return found

    def _parameters(self, hook: Any) -> dict[str, Any]:
        """Return those that are not their defaults; each is read from the attribute of its name."""
        found: dict[str, Any] = {}
        for name, parameter in parameters_of(type(hook)).items():
            if name in RESERVED or name == "device":
                continue
            if not hasattr(hook, name):
                self.whole = False
            elif not _same(value := getattr(hook, name), parameter.default):
                found[name] = self.value(value)
        return found

    def value(self, value: Any) -> Any:
        """Return the plain form of a value, or as much of it as there is."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            self.whole = False  # what its class does with them is not told
            return [type(value).__qualname__, self.value(value.state_dict())]
        if isinstance(value, Mapping):
            return {str(key): self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        if attrs.has(type(value)):
            fields = attrs.fields(type(value))
            given = {each.name: getattr(value, each.name) for each in fields}
            defaults = {each.name: each.default for each in fields}
            return {
                name: self.value(each)
                for name, each in given.items()
                if not _same(each, defaults[name])
            }
        if callable(value):  # its name may be told, and not what it does
            self.whole = False
        try:
            return plain(value)
        except NotDescribable:
            self.whole = False
            return None

    def _tensor(self, tensor: Tensor) -> Any:
        if tensor.is_quantized or tensor.is_meta or tensor.layout is not torch.strided:
            self.whole = False
            return None
        whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        size = whole.numel() * whole.element_size()
        content = (ctypes.c_ubyte * size).from_address(whole.data_ptr()) if size else b""
        return [str(tensor.dtype), [*tensor.shape], hashlib.sha256(content).hexdigest()]


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    is_plain = isinstance(value, bool | int | float | str)
    return is_plain and type(value) is type(default) and bool(value == default)


def _is_random(hook_id: str) -> bool:
    """Whether an id is one of those that hooks get where nobody chose one."""
    try:
        return str(uuid.UUID(hook_id, version=4)) == hook_id
    except ValueError:
        return False


def _is_offered(hook_class: type) -> bool:
    """Whether an installed plugin offers the class: one of a notebook may be written anew."""
    registered = default_manager().extensions("controllers").get(hook_class.__name__)
    if registered is None:
        return False
    try:
        return registered.load() is hook_class
    except ImportError:  # another plugin's, broken
        return False


def _autocasts() -> list[str]:
    """Return the casts of operations that are on in this thread, which no name gives."""
    return [
        f"torch.autocast({kind}, {str(torch.get_autocast_dtype(kind)).removeprefix('torch.')})"
        for kind in ("cpu", "cuda", "mps", "xpu")
        if torch.is_autocast_enabled(kind)
    ]
