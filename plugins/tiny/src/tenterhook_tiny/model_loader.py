"""The loader of the model: what `tiny:` names.

Running it, and hooks on it, are the transformers plugin's.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenterhook_tiny.errors import NoRevisions, UnknownName

if TYPE_CHECKING:
    import torch

    from tenterhook_transformers import LanguageModel


def model_path() -> Path:
    """Return the folder of weights, config and tokenizer, as `from_pretrained` takes it."""
    return Path(__file__).parent / "model"


def load(
    name: str = "",
    *,
    dtype: "torch.dtype | str | None" = None,
    device: "torch.device | str | None" = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    tp_plan: Any = None,
    quantization_config: Any = None,
    max_memory: Any = None,
) -> "LanguageModel":
    """Load the model: `""`, `"kjv"`, and both with `tiny:` before them, mean the one there is.

    It is a GPT-2 of 4 blocks, `d_model` 128 and 256 positions, with weights kept in float32.
    Raises `UnknownName` for another name, `NoRevisions` for a `revision`: each is a `ValueError`.
    """
    name = name.removeprefix("tiny:")
    if name not in ("", "kjv"):
        raise UnknownName("model", f"tiny:{name}", ["tiny:", "tiny:kjv"])
    if revision is not None:
        raise NoRevisions(revision)
    from tenterhook_transformers import LanguageModel

    asked = {
        "attn_implementation": attn_implementation,
        "device_map": device_map,
        "tp_plan": tp_plan,
        "quantization_config": quantization_config,
        "max_memory": max_memory,
    }
    options: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return LanguageModel.from_pretrained(
        str(model_path()), model_id="tiny:", dtype=dtype, device=device, **options
    )
