"""What adapters do to a model: those of peft, and which of them are at work.

Weights of adapters inside the layers are weights of the model. What is here is beside them: which
are active, merged or off, how strongly, and what stands around the model, as a learnt prefix.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from tenterhook_transformers.families import unwrapped
from tenterhook_transformers.weights import weights_fingerprint

_NOT_AT_WORK = {
    *("base_model_name_or_path", "revision", "auto_mapping", "peft_version"),  # where it is from
    *("inference_mode", "trainable_token_indices", "init_weights"),  # what training starts from
    *("loftq_config", "eva_config", "corda_config", "runtime_config"),
}
"""Settings of an adapter that change no row of a model that is there."""


def describe_adapters(module: nn.Module) -> dict[str, Any] | None:
    """Return in plain JSON values which adapters a model has and what they do; `None` without any.

    `active` and `disabled` are those of the layers, `settings` of each adapter by its name,
    `layers` a hash of what each layer does with them, and `around` of the weights that stand
    outside the model.
    """
    layers = {
        path: _at_work(inner)
        for path, inner in module.named_modules()
        if hasattr(inner, "adapter_layer_names")
    }
    outer = getattr(module, "_orig_mod", module)
    configs = getattr(outer, "peft_config", None)
    if not layers and not configs:
        return None
    active = {name for each in layers.values() for name in each["active"]}
    if configs and not layers:
        active = {str(getattr(outer, "active_adapter", ""))}
    text = json.dumps(layers, sort_keys=True)
    return {
        "active": sorted(active),
        "disabled": any(each["disabled"] for each in layers.values()),
        "settings": {name: _settings(config) for name, config in (configs or {}).items()},
        "layers": hashlib.sha256(text.encode()).hexdigest(),
        "around": _around(outer),
    }


def _at_work(layer: Any) -> dict[str, Any]:
    """Return what one layer does with its adapters."""
    others = {name: _plain(getattr(layer, name, None)) for name in layer.other_param_names}
    return {
        "class": type(layer).__qualname__,
        "active": sorted(layer.active_adapters),
        "disabled": bool(layer.disable_adapters),
        "merged": [str(each) for each in layer.merged_adapters],
        **{name: value for name, value in others.items() if value is not None},
    }


def _settings(config: Any) -> dict[str, Any]:
    values = config.to_dict() if hasattr(config, "to_dict") else vars(config)
    return {
        name: _plain(value)
        for name, value in sorted(values.items())
        if name not in _NOT_AT_WORK
        and "dropout" not in name
        and not name.startswith("init_")
        and value is not None
    }


def _around(outer: nn.Module) -> str | None:
    """Return the hash of the weights outside the model itself."""
    inner = unwrapped(outer)
    if inner is outer:
        return None
    beside = nn.ModuleDict()
    for name, child in outer.named_children():
        if not any(each is inner for each in child.modules()):
            beside[name] = child
    return weights_fingerprint(beside) if len(beside) else None


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it, sets sorted; `None` for what is no setting (modules)."""
    if isinstance(value, nn.Module):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in sorted(value.items(), key=str)}
    if isinstance(value, set | frozenset | list | tuple):
        found = [_plain(each) for each in value]
        return sorted(found, key=str) if isinstance(value, set | frozenset | list) else found
    if isinstance(value, bool | int | float | None):
        return value
    return str(getattr(value, "value", value))  # an enum by its value
