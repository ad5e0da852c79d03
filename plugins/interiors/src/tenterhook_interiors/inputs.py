"""Small inputs for a forward of a model of any kind: ids, pixels or features."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook.activations import parameters_of

BATCH, SEQ = 2, 5


class NoInputs(Exception):
    """Nobody knows what to give this model."""


def small_inputs(model: Any) -> dict[str, Tensor]:
    """Return the inputs of one small forward, `(2, 5)` tokens or a picture or two.

    Raises `NoInputs` for a model that takes something else.
    """
    first = next(iter(model.parameters()))
    main = getattr(model, "main_input_name", "input_ids")
    device, dtype = first.device, first.dtype
    generator = torch.Generator().manual_seed(0)
    text = _text_config(model.config)
    if main in ("input_ids", "decoder_input_ids") or _takes(model, "input_ids"):
        ids = _ids(text, generator).to(device)
        given = {"input_ids": ids}
        if _takes(model, "decoder_input_ids"):
            given["decoder_input_ids"] = _ids(text, generator).to(device)
        if _takes(model, "pixel_values") and getattr(model.config, "projection_dim", None):
            given["pixel_values"] = _pixels(model.config, generator).to(device, dtype)
        return given
    if main == "pixel_values":
        return {"pixel_values": _pixels(model.config, generator).to(device, dtype)}
    if main in ("input_features", "input_values"):
        return _sound(model, main, generator, device, dtype)
    raise NoInputs(f"It takes {main!r}, and nobody knows what that looks like.")


def _ids(config: Any, generator: torch.Generator) -> Tensor:
    """Return ids that are no special token's: those of pictures stand for something else."""
    size = int(config.vocab_size)
    special = {value for value in _special(config) if value < size}
    usual = torch.tensor([each for each in range(min(size, 4000)) if each not in special])
    return usual[torch.randint(len(usual), (BATCH, SEQ), generator=generator)]


def _special(config: Any) -> Iterator[int]:
    for name, value in config.to_dict().items():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int):
            yield value


def _pixels(config: Any, generator: torch.Generator) -> Tensor:
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 224)
    high, wide = size if isinstance(size, list | tuple) else (size, size)
    channels = getattr(vision, "num_channels", 3)
    return torch.rand(BATCH, channels, high, wide, generator=generator)


def _sound(
    model: Any, main: str, generator: torch.Generator, device: Any, dtype: Any
) -> dict[str, Tensor]:
    config = model.config
    if main == "input_values":
        return {main: torch.rand(BATCH, 4000, generator=generator).to(device, dtype)}
    length = 2 * int(getattr(config, "max_source_positions", 50))
    bins = int(getattr(config, "num_mel_bins", 80))
    given = {main: torch.rand(BATCH, bins, length, generator=generator).to(device, dtype)}
    if _takes(model, "decoder_input_ids"):
        given["decoder_input_ids"] = _ids(config, generator).to(device)
    return given


def _text_config(config: Any) -> Any:
    part = getattr(config, "get_text_config", None)
    found = part() if callable(part) else config
    return found if hasattr(found, "vocab_size") else config


def _takes(model: nn.Module, name: str) -> bool:
    kind: Any = type(model)
    return name in parameters_of(kind)
