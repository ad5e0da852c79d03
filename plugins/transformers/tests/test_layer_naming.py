"""Standard names, checked by arithmetic on a real model of each family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tenterhook
from tenterhook.errors import UnknownLayer
from tenterhook_store import MemoryStore
from tenterhook_tiny import model_path
from tenterhook_transformers import LanguageModel
from tenterhook_transformers.layer_naming import families

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_MOE = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_SLIDING = {**_GROUPED, "sliding_window": 16}

# Config class without "Config", what it is made with, and the sum that must hold.
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("Bert", _SIZES, "post_norm"),
    "bloom": (
        "Bloom",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "sequential",
    ),
    "codegen": ("CodeGen", {**_GPT, "rotary_dim": 4, "n_ctx": 64}, "parallel"),
    "cohere": ("Cohere", _GROUPED, "parallel"),
    "cohere2": ("Cohere2", _SLIDING, "parallel"),
    "exaone4": ("Exaone4", _SLIDING, "sequential"),
    "falcon": ("Falcon", {**_SIZES, "new_decoder_architecture": False}, "parallel"),
    "falcon-new": (
        "Falcon",
        {**_SIZES, "new_decoder_architecture": True, "num_kv_heads": 2},
        "parallel",
    ),
    "falcon-rw": ("Falcon", {**_SIZES, "parallel_attn": False, "alibi": True}, "sequential"),
    "gemma": ("Gemma", _GROUPED, "sequential"),
    "gemma2": ("Gemma2", _SLIDING, "sequential"),
    "gemma3_text": ("Gemma3Text", _SLIDING, "sequential"),
    "glm": ("Glm", _GROUPED, "sequential"),
    "glm4": ("Glm4", _GROUPED, "sequential"),
    "gpt2": ("GPT2", _GPT, "sequential"),
    "gpt_bigcode": ("GPTBigCode", _GPT, "sequential"),
    "gpt_neo": (
        "GPTNeo",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
        "sequential",
    ),
    "gpt_neox": ("GPTNeoX", _SIZES, "parallel"),
    "gpt_neox-sequential": ("GPTNeoX", {**_SIZES, "use_parallel_residual": False}, "sequential"),
    "gptj": ("GPTJ", {**_GPT, "rotary_dim": 4}, "parallel"),
    "llama": ("Llama", _GROUPED, "sequential"),
    "mistral": ("Mistral", _SLIDING, "sequential"),
    "mixtral": ("Mixtral", {**_GROUPED, "num_local_experts": 4}, "sequential"),
    "mpt": (
        "Mpt",
        {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
        "sequential",
    ),
    "olmo": ("Olmo", _GROUPED, "sequential"),
    "olmo2": ("Olmo2", _GROUPED, "sequential"),
    "olmo3": ("Olmo3", _SLIDING, "sequential"),
    "opt": ("OPT", {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}, "sequential"),
    "opt-post-norm": (
        "OPT",
        {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
        "post_norm",
    ),
    "phi": ("Phi", _SIZES, "parallel"),
    "phi3": ("Phi3", {**_SIZES, "num_key_value_heads": 2}, "sequential"),
    "qwen2": ("Qwen2", {**_SIZES, "num_key_value_heads": 4}, "sequential"),
    "qwen2_moe": (
        "Qwen2Moe",
        {**_MOE, "shared_expert_intermediate_size": 16},
        "sequential",
    ),
    "qwen3": ("Qwen3", _GROUPED, "sequential"),
    "qwen3_moe": ("Qwen3Moe", _MOE, "sequential"),
    "roberta": ("Roberta", _SIZES, "post_norm"),
    "smollm3": ("SmolLM3", _GROUPED, "sequential"),
    "stablelm": ("StableLm", {**_SIZES, "num_key_value_heads": 4}, "sequential"),
    "stablelm-parallel": (
        "StableLm",
        {**_SIZES, "num_key_value_heads": 4, "use_parallel_residual": True},
        "parallel",
    ),
    "starcoder2": ("Starcoder2", {**_SIZES, "num_key_value_heads": 2}, "sequential"),
    "xlm-roberta": ("XLMRoberta", _SIZES, "post_norm"),
}
# The norms of a post-norm block, after the attention and after the MLP.
NORMS = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "opt": ("self_attn_layer_norm", "final_layer_norm"),
}
NOT_MADE = {"gemma3"}
"""The model of several modalities; its text part is made, and its names are tested below."""


def make(case: str) -> Any:
    """Return the base model of a family, seeded, in float32, with lively weights."""
    name, settings, _ = CASES[case]
    config = getattr(transformers, f"{name}Config")(**settings)
    torch.manual_seed(0)
    model: Any = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("case", CASES)
def test_block_output_is_the_sum(case: str) -> None:
    """What the names mean adds up to what the block returns, in each family and option."""
    model = tenterhook.attach(make(case))
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(1))
    standard = model.layers.standard_names()
    assert standard is not None
    assert standard.residual == CASES[case][2]
    names = [
        f"{place}.{block}" for place in ("attn_out", "mlp_out", "resid_post") for block in (0, 1)
    ]

    with (
        torch.no_grad(),
        model.capture(*names) as out,
        model.capture("resid_post.*", inputs=True) as into,
    ):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))

    for block in (0, 1):
        x = into.last(f"resid_post.{block}")
        attention, mlp, found = (
            out.last(f"{place}.{block}").reshape(x.shape)
            for place in ("attn_out", "mlp_out", "resid_post")
        )
        expected = added(model, standard.residual, case, block, x, attention, mlp)
        assert attention.abs().max() > 1e-3
        assert mlp.abs().max() > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def added(
    model: Any, residual: str, case: str, block: int, x: Tensor, attention: Tensor, mlp: Tensor
) -> Tensor:
    """Return what the block should return."""
    if residual != "post_norm":
        return x + attention + mlp
    root = model.module.get_submodule(model.layers.list_blocks()[block])
    norms = NORMS["opt" if case.startswith("opt") else "bert"]
    first, second = (root.get_submodule(name) for name in norms)
    with torch.no_grad():
        result: Tensor = second(first(x + attention) + mlp)
    return result


@pytest.mark.parametrize("case", ["llama", "gpt2", "gpt_neox-sequential", "gemma2", "falcon-rw"])
def test_sequential_means_that_the_mlp_sees_the_attention(case: str) -> None:
    """With other attention the MLP gives something else; that is what tells the two sums apart."""
    assert mlp_sees_attention(case)


@pytest.mark.parametrize(
    "case", ["gptj", "gpt_neox", "falcon", "phi", "cohere", "stablelm-parallel"]
)
def test_parallel_means_that_it_does_not(case: str) -> None:
    """The MLP reads what the attention reads."""
    assert not mlp_sees_attention(case)


def mlp_sees_attention(case: str) -> bool:
    """Say whether removing what the attention adds changes what the MLP of its block gives."""
    model = tenterhook.attach(make(case))
    ids = torch.arange(3, 10)[None]
    given = []
    for change in (torch.clone, torch.zeros_like):
        with (
            torch.no_grad(),
            model.steer("attn_out.0", change),
            model.capture("mlp_out.0") as captured,
        ):
            model(input_ids=ids)
        given.append(captured.last("mlp_out.0"))
    return not torch.allclose(given[0], given[1])


def test_every_family_is_checked() -> None:
    """A family that is added needs its arithmetic."""
    made = {transformers.AutoConfig.for_model(name).model_type for name in families()}
    checked = {getattr(transformers, f"{name}Config").model_type for name, _, _ in CASES.values()}

    assert made - NOT_MADE == checked


def test_names_hold_in_a_model_with_a_head(make_model: Callable[..., Any]) -> None:
    """They are found wherever the stack is, and are one layer with their dotted names."""
    model = tenterhook.attach(make_model("llama"))
    ids = torch.arange(4, 9)[None]

    with model.capture("resid_post.1", "mlp_out.*") as captured:
        model(ids)

    assert set(captured.keys()) == {
        "model.layers.1",
        "model.layers.0.mlp",
        "model.layers.1.mlp",
    }
    torch.testing.assert_close(captured.last("resid_post.1"), captured.last("model.layers.1"))


def test_a_block_that_is_not_there() -> None:
    """The error names the nearest name."""
    model = tenterhook.attach(make("gpt2"))

    with pytest.raises(UnknownLayer, match=r"'resid_post.9'.*Closest: 'resid_post"):
        model.layers.index.resolve("resid_post.9")


def test_a_family_that_is_not_known() -> None:
    """A model of another kind has no standard names, and is told so."""
    config = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)
    model = tenterhook.attach(transformers.MambaModel(config))

    assert model.layers.standard_names() is None
    with pytest.raises(UnknownLayer, match=r"No layer 'attn_out\.0'"):
        model.capture("attn_out.0")


def test_options_that_change_the_sum_are_told_apart() -> None:
    """Bloom may take the residual after a norm, which is no sum that has a name."""
    config = transformers.BloomConfig(
        vocab_size=64,
        hidden_size=32,
        n_layer=2,
        n_head=4,
        apply_residual_connection_post_layernorm=True,
    )

    assert tenterhook.attach(transformers.BloomModel(config)).layers.standard_names() is None


def test_a_run_is_read_by_standard_names(tmp_path: Path) -> None:
    """A captured layer answers to the name it was asked for by."""
    model = LanguageModel.from_pretrained(str(model_path()), store=MemoryStore())

    run_id = model.activations.save("resid_post.1", ["In the beginning"])

    assert model.store is not None
    run = model.store.run(run_id)
    assert run.layers == ("transformer.h.1",)
    assert run["resid_post.1"].shape == run["transformer.h.1"].shape
