"""Where vLLM's own models have the points that requests and captures name.

vLLM writes each model anew. What most of its decoders share is a trick: a layer returns a pair,
what its MLP made and the residual stream before that was added; the next layer's norm adds them, in
place. The stream after a layer is the *sum* of the pair, and no module returns it.

A family is told by the name of the architecture, never by the look of its modules. The probe at the
start checks each point by computing with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tenterhook_vllm.engine_errors import UnsupportedModel


@attrs.frozen
class Family:
    """Where in the layers of an architecture the points are, by paths inside a layer."""

    layers: str = "model.layers"
    attention: str = "self_attn"
    """Whose output the attention adds to the stream."""
    mlp: str = "mlp"
    """Whose output the MLP adds to the stream."""
    middle: str | None = "post_attention_layernorm"
    """The norm that adds what the attention made to the stream, in place, and so is given both;
    `None` where no module is: then `resid_mid` is no point."""
    is_pair: bool = True
    """Whether a layer returns what is to be added beside the stream, and not the sum."""
    router: str | None = None
    """Which module gives each expert its score; `None` where there is none that is called."""


_LLAMA = Family()
_NORMED = Family(
    attention="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    middle="pre_feedforward_layernorm",
)

FAMILIES: Mapping[str, Family] = {
    "GPT2LMHeadModel": Family(layers="transformer.h", attention="attn", middle=None, is_pair=False),
    "Gemma2ForCausalLM": _NORMED,
    "GemmaForCausalLM": _LLAMA,
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": Family(mlp="block_sparse_moe", router="block_sparse_moe.gate"),
    "Phi3ForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
}
"""By architecture, as a config names it."""


def family_of(architectures: Sequence[str]) -> Family:
    """Return the family of a model. Raises `UnsupportedModel`, a `ValueError`."""
    for name in architectures:
        if name in FAMILIES:
            return FAMILIES[name]
    raise UnsupportedModel(list(architectures), sorted(FAMILIES))


def widths_of(config: Any, family: Family) -> dict[str, int]:
    """Return the points of a model and how wide they are, in the order of a forward.

    `config` is that of the text model, as transformers has it.
    """
    width = int(config.hidden_size)
    found: dict[str, int] = {}
    for at in range(int(config.num_hidden_layers)):
        found[f"attn_out.{at}"] = width
        if family.middle is not None:
            found[f"resid_mid.{at}"] = width
        if family.router is not None:
            found[f"router.{at}"] = int(config.num_local_experts)
        found[f"mlp_out.{at}"] = width
        found[f"resid_post.{at}"] = width
    found["logits"] = int(config.vocab_size)
    return found
