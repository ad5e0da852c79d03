"""`HookedLlama` against the models of Hugging Face whose weights it takes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tenterhook_hook_points import NotAGPT
from tenterhook_hook_points.language_model import with_points
from tenterhook_hook_points.llama import HookedLlama
from tenterhook_hook_points.llama import LlamaConfig as OurConfig
from tenterhook_transformers import LanguageModel

IDS = torch.randint(60, (2, 20), generator=torch.Generator().manual_seed(0))
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 60,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LONG_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS: dict[str, Any] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "one head of keys": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 1}),
    "biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama 3": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LONG_ROPE}),
    "yarn": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": YARN}),
    "tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"hidden_act": "gelu"}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
}


def theirs(kind: str, **settings: Any) -> Any:
    """Return a small model with weights large enough to tell."""
    torch.manual_seed(0)
    model_class, config_class, own = KINDS[kind]
    model = model_class(config_class(**(SIZES | own | settings))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.normal_(std=0.3).add_(1)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_logits(kind: str) -> None:
    """Equal to those of the model it was made of, to 1e-4, with padding too; so is the loss."""
    model = theirs(kind)
    ours = HookedLlama.from_hugging_face(model)
    mask = torch.ones_like(IDS)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(IDS, labels=IDS)
        assert (ours(IDS) - expected.logits).abs().max() < 1e-4
        assert (ours(IDS, loss=True) - expected.loss).abs() < 1e-4
        padded = model(IDS, attention_mask=mask, position_ids=positions).logits
        assert (ours(IDS, mask, positions) - padded)[mask.bool()].abs().max() < 1e-4


def test_bfloat16() -> None:
    """Weights keep their dtype, and the positions' frequencies are not narrowed with them."""
    model = theirs("llama").to(torch.bfloat16)
    ours = HookedLlama.from_hugging_face(model)
    assert ours.W_E.dtype == torch.bfloat16
    assert torch.equal(ours.frequencies, model.model.rotary_emb.inv_freq.float())
    with torch.no_grad():
        out, expected = ours(IDS).float(), model(IDS).logits.float()
    assert torch.nn.functional.cosine_similarity(out, expected, dim=-1).min() > 0.99


def test_points() -> None:
    """Every step has its point, of the shape that its name promises, and they add up."""
    ours = HookedLlama.from_hugging_face(theirs("qwen3"))
    with torch.no_grad():
        _, cache = ours.run_with_cache(IDS)
    assert set(cache) == set(ours.hook_dict)
    heads, few, looks = (2, 20, 4, 16), (2, 20, 2, 16), (2, 4, 20, 20)
    assert {name: tuple(cache[name, 1].shape) for name in ("q", "rot_q", "z")} == dict.fromkeys(
        ("q", "rot_q", "z"), heads
    )
    assert {name: tuple(cache[name, 1].shape) for name in ("k", "rot_k", "v")} == dict.fromkeys(
        ("k", "rot_k", "v"), few
    )
    assert cache["attn_scores", 0].shape == cache["attn", 0].shape == looks
    assert cache["result", 0].shape == (2, 20, 4, 32)
    product = torch.nn.functional.silu(cache["mlp_pre", 0]) * cache["pre_linear", 0]
    assert torch.allclose(cache["mlp_post", 0], product, atol=1e-6)
    assert torch.allclose(cache["pattern", 0].sum(-1), torch.ones(2, 4, 20))
    assert torch.allclose(cache["rot_q", 0].norm(dim=-1), cache["q", 0].norm(dim=-1), atol=1e-4)
    parts = cache.stack("attn_out").sum(0) + cache.stack("mlp_out").sum(0)
    assert torch.allclose(cache["embed"] + parts, cache["resid_post", -1], atol=1e-4)


def test_points_are_what_the_model_has() -> None:
    """The stream and the outputs of attention and MLP are those of the other model's modules."""
    model = theirs("llama")
    ours = HookedLlama.from_hugging_face(model)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for at, layer in enumerate(model.model.layers):
        layer.register_forward_hook(keep(f"blocks.{at}.hook_resid_post"))
        layer.self_attn.register_forward_hook(keep(f"blocks.{at}.hook_attn_out"))
        layer.mlp.register_forward_hook(keep(f"blocks.{at}.hook_mlp_out"))
        layer.input_layernorm.register_forward_hook(keep(f"blocks.{at}.ln1.hook_normalized"))
    with torch.no_grad():
        model(IDS)
        _, cache = ours.run_with_cache(IDS)
    for name, tensor in seen.items():
        assert torch.allclose(cache[name], tensor, atol=1e-4), name


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("mistral", {"sliding_window": 8}, "sliding_window=8"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
         "rope_type='dynamic'"),
        ("llama", {"hidden_act": "tanh"}, "tanh"),
    ],
)  # fmt: skip
def test_what_it_has_not(kind: str, settings: dict[str, Any], said: str) -> None:
    """A config that this model cannot be is refused, also where it is loaded by name."""
    model = theirs(kind, **settings)
    with pytest.raises(ValueError, match=said):
        HookedLlama.from_hugging_face(model)
    with pytest.raises(NotAGPT, match=said):
        with_points(LanguageModel(model, None), "one")


def test_sizes() -> None:
    """Heads are shared evenly, and rotary positions turn pairs."""
    sizes = {name: SIZES[name] for name in SIZES if name != "initializer_range"} | {"head_dim": 8}
    assert HookedLlama(OurConfig(**sizes))(IDS).shape == (2, 20, 60)
    with pytest.raises(ValueError, match="num_attention_heads=4 does not divide into groups"):
        OurConfig(**(sizes | {"num_key_value_heads": 3}))
    with pytest.raises(ValueError, match="head_dim=7 is odd"):
        OurConfig(**(sizes | {"head_dim": 7}))
    with pytest.raises(ValueError, match="takes llama, mistral, qwen2, qwen3"):
        OurConfig.of(SimpleNamespace(model_type="gemma"))
