"""Names of other libraries, and back."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import tenterhook
from tenterhook_hook_points.gpt import HookedGPT
from tenterhook_hook_points.llama import HookedLlama
from tenterhook_interiors import LIBRARIES, NoTranslation, from_library, to_library

IDS = torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ours", "library", "theirs"),
    [
        ("z.3", "transformer-lens", "blocks.3.attn.hook_z"),
        ("resid_post.11", "transformer-lens", "blocks.11.hook_resid_post"),
        ("embed", "transformer-lens", "hook_embed"),
        ("q_pre.0", "transformer-lens", "blocks.0.attn.hook_q"),
        ("q.0", "transformer-lens", "blocks.0.attn.hook_rot_q"),
        ("mlp_act.2", "transformer-lens", "blocks.2.mlp.hook_post"),
        ("resid_pre.3", "nnterp", "layers_input[3]"),
        ("pattern.3", "nnterp", "attention_probabilities[3]"),
        ("logits", "nnterp", "logits"),
    ],
)
def test_there_and_back(ours: str, library: str, theirs: str) -> None:
    """One name is the other's."""
    assert to_library(ours, library) == theirs
    assert from_library(theirs, library) == ours


def test_without_rotary_positions() -> None:
    """There is one name for queries then."""
    assert to_library("q.1", "transformer-lens", rotary=False) == "blocks.1.attn.hook_q"
    assert to_library("v.1", "transformer-lens", rotary=False) == "blocks.1.attn.hook_v"


@pytest.mark.parametrize(
    "name", ["router.3", "experts.3:ids", "transformer.h.3", "z", "embed.1", "z.x", "layer_3"]
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_no_name_of_theirs(name: str, library: str) -> None:
    """What they have no name for."""
    assert to_library(name, library) is None


def test_mistakes() -> None:
    """Names and libraries that are not known."""
    with pytest.raises(NoTranslation, match=r"'blocks.3.hook_resid_pots' .*'blocks.0.hook_resid_p"):
        from_library("blocks.3.hook_resid_pots", "transformer-lens")
    with pytest.raises(NoTranslation, match="No names of 'nnsight' are known, only those of"):
        to_library("z.3", "nnsight")
    with pytest.raises(NoTranslation, match="'attentions_output' is no name of nnterp"):
        from_library("attentions_output", "nnterp")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_they_are_the_same_places(kind: str) -> None:
    """A model with hook points, which have those names, sees there what points see here."""
    torch.manual_seed(0)
    model: Any
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=16, vocab_size=50)
        )
        hooked: HookedGPT | HookedLlama = HookedGPT.from_hugging_face(model)
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32, intermediate_size=40, num_hidden_layers=2, vocab_size=50,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
            )
        )  # fmt: skip
        hooked = HookedLlama.from_hugging_face(model)
    model.eval()
    attached = tenterhook.attach(model)
    streams = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_act"]
    heads = ["q_pre", "k_pre", "q", "k", "v", "pattern", "z"]
    names = ["embed", *(f"{word}.1" for word in (*streams, *heads))]
    with torch.no_grad():
        _, cache = hooked.run_with_cache(IDS)
        for name in names:
            with attached.capture(name) as captured:
                model(IDS)
            theirs = to_library(name, "transformer-lens", rotary=kind == "llama")
            assert theirs is not None
            mine = captured.last(next(iter(captured)))
            assert torch.allclose(mine, cache[theirs], atol=1e-4), name
