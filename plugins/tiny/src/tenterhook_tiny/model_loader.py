"""The loader of the models: what `tiny:` and `tiny:induction` name.

Running it, and hooks on it, are the transformers plugin's.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenterhook_tiny.errors import NoRevisions, UnknownName

if TYPE_CHECKING:
    import torch

    from tenterhook_transformers import LanguageModel


_FOLDERS = {"": "model", "kjv": "model", "induction": "induction"}


def model_path(name: str = "") -> Path:
    """Return the folder of weights, config and tokenizer, as `from_pretrained` takes it.

    `name` is what follows `tiny:`. Raises `UnknownName`, a `ValueError`, for another.
    """
    if name not in _FOLDERS:
        known = [f"tiny:{each}" for each in _FOLDERS]
        raise UnknownName("model", f"tiny:{name}", known)
    return Path(__file__).parent / _FOLDERS[name]


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
    """Load a model by name, with `tiny:` before it or without.

    `""` and `"kjv"` are a GPT-2 of 4 blocks, `d_model` 128 and 256 positions, trained on the King
    James Bible. `"induction"` is a Llama of two blocks of attention without MLPs, `d_model` 64 and
    64 positions, which goes on with letters that repeat. Weights are kept in float32.
    Raises `UnknownName` for another name, `NoRevisions` for a `revision`: each is a `ValueError`.
    """
    name = name.removeprefix("tiny:")
    folder = model_path(name)
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
        str(folder),
        model_id="tiny:" if folder == model_path() else f"tiny:{name}",
        dtype=dtype,
        device=device,
        **options,
    )
