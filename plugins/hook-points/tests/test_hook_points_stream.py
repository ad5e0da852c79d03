"""The residual stream taken apart, against sums and products of the model's own weights."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tenterhook_hook_points import (
    ActivationCache,
    HookedRootModule,
    HookedTransformer,
    NotATransformer,
    UnknownActivation,
)
from tenterhook_hook_points.gpt import HookedGPT
from tenterhook_hook_points.llama import HookedLlama

IDS = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(0))
CORRECT, WRONG = torch.tensor([4, 8, 15]), torch.tensor([16, 23, 42])


def hugging_face(kind: str) -> Any:
    """Return a small model of transformers, with norms and biases that count."""
    torch.manual_seed(0)
    model: Any
    if kind == "gpt2":
        config = GPT2Config(n_layer=3, n_head=4, n_embd=32, n_positions=16, vocab_size=50)
        model = GPT2LMHeadModel(config)
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32, intermediate_size=40, num_hidden_layers=3, vocab_size=50,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
                attention_bias=True,
            )
        )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name or "ln_" in name:
                parameter.normal_(std=0.3).add_(1)
    return model.eval()


@pytest.fixture(params=["gpt2", "llama"])
def ours(request: pytest.FixtureRequest) -> HookedTransformer:
    """Return a model with points."""
    kind = HookedGPT if request.param == "gpt2" else HookedLlama
    hooked: HookedTransformer = kind.from_hugging_face(hugging_face(request.param))
    return hooked.requires_grad_(False)


@pytest.fixture
def run(ours: HookedTransformer) -> tuple[Tensor, ActivationCache]:
    """Return logits and cache of a run."""
    return ours.run_with_cache(IDS)


def close(mine: Any, expected: Tensor) -> bool:
    """Whether two tensors are equal to 1e-5."""
    assert mine.shape == expected.shape
    return bool((mine - expected).abs().max() < 1e-5)


def test_accumulated_resid(ours: HookedTransformer, run: Any) -> None:
    """It is the stream of the model of transformers, as `output_hidden_states` has it."""
    _, cache = run
    found, labels = cache.accumulated_resid(return_labels=True)
    assert labels == ["0_pre", "1_pre", "2_pre", "final_post"]
    expected = [ours(IDS, stop_at_layer=block) for block in range(4)]
    assert close(found, torch.stack(expected))
    _, labels = cache.accumulated_resid(1, incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre"]
    middle, labels = cache.accumulated_resid(1, mlp_input=True, return_labels=True)
    assert labels == ["0_pre", "1_pre", "1_mid"]
    assert close(middle[-1], cache["resid_mid", 1])
    assert close(cache.accumulated_resid(pos_slice=-1), torch.stack(expected)[:, :, -1])
    assert close(cache.accumulated_resid(pos_slice=(1, 3)), torch.stack(expected)[:, :, 1:3])


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_stop_at_layer(model: str) -> None:
    """The stream before a block is what the other model's hidden states are."""
    theirs = hugging_face(model)
    kind = HookedGPT if model == "gpt2" else HookedLlama
    hooked: HookedTransformer = kind.from_hugging_face(theirs)
    with torch.no_grad():
        states = theirs(IDS, output_hidden_states=True).hidden_states
        for block in range(3):
            assert close(hooked(IDS, stop_at_layer=block), states[block])
            assert close(hooked(IDS, stop_at_layer=block - 3), states[block])
        _, cache = hooked.run_with_cache(IDS, stop_at_layer=1)
    assert cache.layers == [0]
    with pytest.raises(ValueError, match="stop_at_layer=4, and there are 3 blocks"):
        hooked(IDS, stop_at_layer=4)
    with pytest.raises(ValueError, match="loss=True needs the logits"):
        hooked(IDS, stop_at_layer=1, loss=True)


@pytest.mark.parametrize(
    "where", [{}, {"layer": 1}, {"layer": 0}, {"layer": 2, "mlp_input": True}, {"pos_slice": 2}]
)
def test_parts_sum_to_the_stream(run: Any, where: dict[str, Any]) -> None:
    """Embeddings, attention and MLPs; heads, neurons and biases; heads and the remainder."""
    _, cache = run
    stream = cache.accumulated_resid(**where)[-1]
    assert close(cache.decompose_resid(**where).sum(0), stream)
    assert close(cache.get_full_resid_decomposition(**where).sum(0), stream)
    whole = cache.get_full_resid_decomposition(**where, expand_neurons=False)
    assert close(whole.sum(0), stream)
    if "mlp_input" not in where and where.get("layer") != 0:
        heads = cache.stack_head_results(**where, incl_remainder=True)
        assert close(heads.sum(0), stream)
        neurons = cache.stack_neuron_results(**where, incl_remainder=True, neuron_slice=(0, 5))
        assert close(neurons.sum(0), stream)


def test_labels(ours: HookedTransformer, run: Any) -> None:
    """Each part has its name, in the order of the stack."""
    _, cache = run
    embeddings = ["embed", "pos_embed"] if isinstance(ours, HookedGPT) else ["embed"]
    parts, labels = cache.decompose_resid(1, return_labels=True)
    assert labels == [*embeddings, "0_attn_out", "0_mlp_out"]
    assert close(parts[labels.index("0_mlp_out")], cache["mlp_out", 0])
    _, labels = cache.decompose_resid(2, mode="attn", incl_embeds=False, return_labels=True)
    assert labels == ["0_attn_out", "1_attn_out"]
    _, labels = cache.decompose_resid(1, mode="mlp", incl_embeds=False, return_labels=True)
    assert labels == ["0_mlp_out"]
    parts, labels = cache.stack_head_results(2, return_labels=True)
    assert labels[:5] == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]
    assert close(parts[labels.index("L1H2")], cache["result", 1][:, :, 2])
    parts, labels = cache.stack_neuron_results(
        1, neuron_slice=[3, 1], return_labels=True, pos_slice=-1
    )
    assert labels == ["L0N3", "L0N1"]
    mlp: Any = ours.blocks[0].mlp
    assert close(parts[1], cache["mlp_post", 0][:, -1, 1, None] * mlp.W_out[1])
    _, labels = cache.get_full_resid_decomposition(
        1, expand_neurons=False, return_labels=True
    )  # fmt: skip
    assert labels == ["L0H0", "L0H1", "L0H2", "L0H3", "0_mlp_out", *embeddings, "bias"]
    with pytest.raises(ValueError, match="mode='heads' is not one of"):
        cache.decompose_resid(mode="heads")
    with pytest.raises(ValueError, match="layer=4 is not one of the 3 blocks"):
        cache.decompose_resid(4)
    with pytest.raises(ValueError, match="no block comes before"):
        cache.stack_head_results(0)


def test_heads_from_z(ours: HookedTransformer, run: Any) -> None:
    """A run that kept `hook_z` alone gives the same heads."""
    _, cache = run
    _, few = ours.run_with_cache(IDS, names_filter="blocks.*.attn.hook_z")
    assert close(few.stack_head_results(), cache.stack_head_results())
    with pytest.raises(UnknownActivation, match="resid_post"):
        few.stack_head_results(incl_remainder=True)


def test_the_norm(ours: HookedTransformer, run: Any) -> None:
    """The parts through a norm sum to what the norm returned, but for its bias."""
    _, cache = run
    block: Any = ours.blocks[1]
    places: list[Any] = [(None, False, ours.ln_final), (1, False, block.ln1), (1, True, block.ln2)]
    for layer, mlp_input, norm in places:
        stream = cache.accumulated_resid(layer, mlp_input=mlp_input)[-1]
        expected = norm(stream) - getattr(norm, "b", 0)
        parts = cache.decompose_resid(layer, mlp_input=mlp_input, apply_ln=True)
        assert close(parts.sum(0), expected)
        lens = cache.apply_ln_to_stack(stream[None], layer, mlp_input, recompute_ln=True)
        assert close(lens[0], expected)
    part = cache.decompose_resid(pos_slice=3)
    expected = cache.decompose_resid(apply_ln=True)[:, :, 3]
    assert close(cache.apply_ln_to_stack(part, pos_slice=3), expected)
    assert close(cache.apply_ln_to_stack(part[:, :2], pos_slice=3, batch_slice=(0, 2)),
                 expected[:, :2])  # fmt: skip


def test_logit_attrs(ours: HookedTransformer, run: Any) -> None:
    """The parts' shares sum to the logit but for biases; of two tokens, to the difference."""
    logits, cache = run
    parts = cache.decompose_resid()
    bias = getattr(ours.ln_final, "b", torch.zeros(32)) @ ours.W_U
    assert close(cache.logit_attrs(parts, 7).sum(0), logits[..., 7] - bias[7])
    every = cache.logit_attrs(parts, IDS).sum(0)
    assert close(every, logits.gather(2, IDS[..., None])[..., 0] - bias[IDS])
    rows = torch.arange(3)
    last = cache.decompose_resid(pos_slice=-1)
    found = cache.logit_attrs(last, CORRECT, WRONG, pos_slice=-1)
    assert found.shape == (len(parts), 3)
    difference = logits[rows, -1, CORRECT] - logits[rows, -1, WRONG] - bias[CORRECT] + bias[WRONG]
    assert close(found.sum(0), difference)
    whole = cache.logit_attrs(parts, CORRECT, WRONG)
    assert close(whole[:, :, -1], found)
    assert close(cache.logit_attrs(last[:, :2], CORRECT[:2], pos_slice=-1, batch_slice=(0, 2)),
                 cache.logit_attrs(last, CORRECT, pos_slice=-1)[:, :2])  # fmt: skip


def test_without_a_batch(ours: HookedTransformer, run: Any) -> None:
    """A cache without the batch axis gives the row of one that has it."""
    _, whole = run
    _, cache = ours.run_with_cache(IDS[:1], remove_batch_dim=True)
    assert close(cache.decompose_resid(), whole.decompose_resid()[:, 0])
    assert close(cache.stack_head_results(apply_ln=True, pos_slice=2),
                 whole.stack_head_results(apply_ln=True, pos_slice=2)[:, 0])  # fmt: skip
    assert close(cache.logit_attrs(cache.decompose_resid(), 3),
                 whole.logit_attrs(whole.decompose_resid(), 3)[:, 0])  # fmt: skip
    assert close(cache.logit_attrs(cache.decompose_resid()[:, None], 3)[:, 0],
                 cache.logit_attrs(cache.decompose_resid(), 3))  # fmt: skip


def test_without_a_model(model: HookedRootModule, x: Tensor) -> None:
    """A cache of no transformer, or of none that is known, says what it needs."""
    _, cache = model.run_with_cache(x)
    with pytest.raises(NotATransformer, match=r"is a Small, .*run_with_cache on a HookedGPT"):
        cache.decompose_resid()
    with pytest.raises(NotATransformer, match="is not known"):
        ActivationCache(cache).logit_attrs(x, 0)
