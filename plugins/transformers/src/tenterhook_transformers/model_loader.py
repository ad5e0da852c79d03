"""The loader of `hf:`: a language model by its name on the hub or its folder."""

from typing import Any

import torch

from tenterhook_transformers.language_model import LanguageModel


def load(
    name: str,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    tp_plan: Any = None,
    quantization_config: Any = None,
    max_memory: Any = None,
) -> LanguageModel:
    """Load a model by its name on the hub or its folder; see `LanguageModel.from_pretrained`."""
    asked = {
        "revision": revision,
        "attn_implementation": attn_implementation,
        "device_map": device_map,
        "tp_plan": tp_plan,
        "quantization_config": quantization_config,
        "max_memory": max_memory,
    }
    options: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return LanguageModel.from_pretrained(name, dtype=dtype, device=device, **options)
