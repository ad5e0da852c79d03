"""Standard names of layers for families of transformers: where what is added to the stream is.

A family is told by the config's `model_type`, never by the look of its modules: two blocks with the
same children may add up differently. A model whose options change the sum to one that has no name
here is not known.
"""

from collections.abc import Callable
from typing import Any

import attrs
from torch import nn

from tenterhook import LayerIndex
from tenterhook.standard_names import Residual, StandardNames
from tenterhook_transformers.families import text_config


@attrs.frozen
class _Family:
    """Where in a block the layers are whose outputs are added to the residual stream."""

    attention: str
    mlp: str
    residual: Residual | Callable[[Any], Residual | None] = "sequential"
    """How a block adds up, or what tells it from the config; `None` for no sum with a name."""


def _neox(config: Any) -> Residual:
    return "parallel" if config.use_parallel_residual else "sequential"


def _falcon(config: Any) -> Residual:
    return "parallel" if config.new_decoder_architecture or config.parallel_attn else "sequential"


def _opt(config: Any) -> Residual:
    return "sequential" if config.do_layer_norm_before else "post_norm"


def _bloom(config: Any) -> Residual | None:
    return None if config.apply_residual_connection_post_layernorm else "sequential"


def _plain(config: Any) -> Residual | None:
    """Decoders have no third term; a block with cross-attention has."""
    return None if getattr(config, "add_cross_attention", False) else "sequential"


def _encoder(config: Any) -> Residual | None:
    return None if getattr(config, "add_cross_attention", False) else "post_norm"


_LLAMA = _Family("self_attn", "mlp")
_GPT2 = _Family("attn", "mlp", _plain)
_BERT = _Family("attention.output.dense", "output.dense", _encoder)
# A norm of its own stands between the attention or the MLP and the stream: the norm's output is
# what is added.
_NORMED = _Family("post_attention_layernorm", "post_feedforward_layernorm")

_FAMILIES = {
    "bert": _BERT,
    "bloom": _Family("self_attention.dense", "mlp.dense_4h_to_h", _bloom),
    "codegen": _Family("attn", "mlp", "parallel"),
    "cohere": _Family("self_attn", "mlp", "parallel"),
    "cohere2": _Family("self_attn", "mlp", "parallel"),
    "exaone4": _NORMED,
    "falcon": _Family("self_attention", "mlp", _falcon),
    "gemma": _LLAMA,
    "gemma2": _NORMED,
    "gemma3": _NORMED,
    "gemma3_text": _NORMED,
    "glm": _LLAMA,
    "glm4": _Family("post_self_attn_layernorm", "post_mlp_layernorm"),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": _Family("attn", "mlp"),
    "gpt_neox": _Family("attention", "mlp", _neox),
    "gptj": _Family("attn", "mlp", "parallel"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "mpt": _Family("attn", "ffn.down_proj"),
    "olmo": _LLAMA,
    "olmo2": _NORMED,
    "olmo3": _NORMED,
    "opt": _Family("self_attn", "fc2", _opt),
    "phi": _Family("self_attn", "mlp", "parallel"),
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_moe": _LLAMA,
    "roberta": _BERT,
    "smollm3": _LLAMA,
    "stablelm": _Family("self_attn", "mlp", _neox),
    "starcoder2": _LLAMA,
    "xlm-roberta": _BERT,
}


def name_layers(module: nn.Module) -> StandardNames | None:
    """Return the standard names of a model of a known family, else `None`."""
    config = text_config(module)
    family = _FAMILIES.get(getattr(config, "model_type", ""))
    if family is None:
        return None
    residual = family.residual(config) if callable(family.residual) else family.residual
    index = LayerIndex(module)
    blocks = index.blocks()
    if residual is None or len(blocks) != config.num_hidden_layers:
        return None
    layers: dict[str, str] = {}
    for number, block in enumerate(blocks):
        layers[f"resid_post.{number}"] = block
        layers[f"attn_out.{number}"] = f"{block}.{family.attention}"
        layers[f"mlp_out.{number}"] = f"{block}.{family.mlp}"
    known = set(index.names())
    return (
        StandardNames(layers=layers, residual=residual)
        if known.issuperset(layers.values())
        else None
    )


def families() -> list[str]:
    """Return the `model_type`s that are known, sorted."""
    return sorted(_FAMILIES)
