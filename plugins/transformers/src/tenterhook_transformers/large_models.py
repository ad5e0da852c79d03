"""What models that do not fit are loaded with, in plain values and as transformers takes it.

`device_map` lays parts of a model on several devices, memory of the CPU and the disk; `tp_plan` has
several processes share each layer; `quantization_config` keeps weights in fewer bits. In plain
values they are part of a model's name, so that another process loads the same.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from tenterhook_transformers.errors import BadLoadOption

LARGE = ("device_map", "tp_plan", "quantization_config", "max_memory")
"""The options that are part of a model's name."""

QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "int8": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
    },
    "fp8": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Float8WeightOnlyConfig", "_version": 2, "_data": {}}},
    },
    "quanto-int8": {"quant_method": "quanto", "weights": "int8"},
    "quanto-fp8": {"quant_method": "quanto", "weights": "float8"},
    "bnb-8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "bnb-4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True},
}
"""Usual ways to keep weights in fewer bits, by a word: of torchao, quanto and bitsandbytes."""


def in_plain_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that are part of a model's name, as JSON has them."""
    found = {
        "device_map": _plain(options.get("device_map")),
        "max_memory": _plain(options.get("max_memory")),
        "tp_plan": options.get("tp_plan"),
        "quantization_config": _settings(options.get("quantization_config")),
    }
    return {option: value for option, value in found.items() if value is not None}


def as_transformers_takes_them(
    options: dict[str, Any], device: torch.device | None
) -> tuple[dict[str, Any], torch.device | None]:
    """Return the options of transformers' `from_pretrained`, and where the model goes after it.

    Raises `BadLoadOption` for options that say two things of one, and words that are none.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if device is not None:
        for other in ("device_map", "tp_plan"):
            if other in options:
                raise BadLoadOption(
                    f"device={str(device)!r} and {other}={options[other]!r} both say where the "
                    "model goes: give one of them."
                )
    if "max_memory" in options:
        options["max_memory"] = _with_numbers(options["max_memory"])
    if isinstance(options.get("device_map"), Mapping):
        options["device_map"] = dict(options["device_map"])
    if "quantization_config" in options:
        options["quantization_config"] = _quantization(options["quantization_config"])
        if device is not None:
            # Weights are packed for a device as they are read; some cannot be moved after that.
            options["device_map"], device = {"": device}, None
    if "tp_plan" in options:
        if "device_map" in options:
            raise BadLoadOption(
                "device_map= and tp_plan= both say where the model goes: give one of them."
            )
        options |= _distributed(options.pop("tp_plan"))
    return options, device


def _distributed(plan: Any) -> dict[str, Any]:
    """Return the options that have the processes of this one's group share each layer."""
    from transformers.distributed.configuration_utils import DistributedConfig

    if plan != "auto" and not isinstance(plan, Mapping):
        raise BadLoadOption(
            f"tp_plan={plan!r} is no plan: give 'auto', for the model's own, or styles by module "
            "name, as {'layers.*.mlp.up_proj': 'colwise'}."
        )
    settings: dict[str, Any] = {"tp_plan": plan if plan == "auto" else dict(plan)}
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        settings["tp_size"] = torch.distributed.get_world_size()  # else a launcher's variables say
    known = {each.name for each in dataclasses.fields(DistributedConfig)}
    # Earlier versions of transformers take them one by one.
    return {"distributed_config": DistributedConfig(**settings)} if "tp_plan" in known else settings


def _quantization(value: Any) -> Any:
    """Return an object of settings, given as one, as a mapping or as a word."""
    from transformers.quantizers.auto import AutoQuantizationConfig

    if isinstance(value, str):
        if value not in QUANTIZATIONS:
            words = ", ".join(map(repr, QUANTIZATIONS))
            raise BadLoadOption(
                f"quantization_config={value!r} is no word for one: give {words}, or the settings "
                "of another method of transformers."
            )
        value = QUANTIZATIONS[value]
    if not isinstance(value, Mapping):
        return value
    try:
        return AutoQuantizationConfig.from_dict({**value})
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise BadLoadOption(f"quantization_config={value!r}: {error}") from None


def _settings(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def _plain(value: Any) -> Any:
    """Return devices by their names, also those of a mapping."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, torch.device) else value


def _with_numbers(memory: Any) -> Any:
    """Return accelerators by their numbers: keys of JSON are text."""
    return {int(k) if str(k).isdecimal() else k: value for k, value in dict(memory).items()}
