"""Captures of real families: forwards that end early, inputs, attention patterns, threads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from tenterhook_capture import MaskIgnored, NoPattern
from tenterhook_store import MemoryStore, Run
from tenterhook_store.testing import same_bits
from tenterhook_transformers import LanguageModel


def save(lm: LanguageModel, layers: Any, texts: list[str], **how: Any) -> Run:
    """Capture, three documents at once, and open the run."""
    store = MemoryStore()
    run_id = lm.activations.save(layers, texts, store=store, batch_size=3, **how)
    return store.run(run_id)


def whole(lm: LanguageModel, layer: str, texts: list[str]) -> torch.Tensor:
    """Return what a bare hook sees in whole forwards of the same batches."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        seen.append(output if isinstance(output, torch.Tensor) else output[0])

    handle = lm.module.get_submodule(layer).register_forward_hook(keep)
    ids, rows = lm.token_ids(texts), []
    for at in range(0, len(ids), 3):
        mask = lm.run_token_ids(ids[at : at + 3])
        last = seen.pop()
        rows.append(last.reshape(*mask.shape, -1)[mask])
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "opt", "bert"])
def test_forwards_end_after_the_last_layer(
    family: str, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], texts: Any
) -> None:
    """Later blocks and the head run once, to find out the order; rows are equal to the bit."""
    module = make_model(family)
    lm = LanguageModel(module, make_tokenizer("left" if family == "llama" else "right"))
    first, second = lm.layers.list_blocks()
    calls: list[int] = []
    module.get_submodule(second).register_forward_hook(lambda *_: calls.append(1))
    run = save(lm, first, texts)
    assert len(calls) == 1
    assert same_bits(run[first][:], whole(lm, first, texts))
    lm.module(**lm.tokenize(texts))  # whole again, for others
    assert len(calls) == 1 + 2 + 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_patterns(
    side: str, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], texts: Any
) -> None:
    """They are those of each document alone, padded to the longest, whichever side pads."""
    module = make_model("gpt2", attn_implementation="eager")
    lm = LanguageModel(module, make_tokenizer(side))
    layer = "transformer.h.1.attn:attention"
    run = save(lm, layer, texts)
    heads, keys = 4, max(map(len, lm.token_ids(texts)))
    assert run[layer].shape[1] == heads * keys
    for document, text in enumerate(texts):
        with torch.no_grad():
            alone = module(**lm.tokenize(text), output_attentions=True).attentions[1][0]
        count = alone.shape[1]
        rows = run[layer][run.documents.rows(document)].view(count, heads, keys)
        torch.testing.assert_close(rows[:, :, :count], alone.transpose(0, 1))
        assert not rows[:, :, count:].any()


def test_patterns_need_eager_attention(make_model: Any, tokenizer: Any, texts: Any) -> None:
    """Attention that computes no patterns is refused, with the way out."""
    lm = LanguageModel(make_model("gpt2", attn_implementation="sdpa"), tokenizer)
    with pytest.raises(NoPattern, match="attn_implementation='eager'"):
        save(lm, "transformer.h.1.attn:attention", texts)


def test_patterns_need_an_attention_layer(make_model: Any, tokenizer: Any, texts: Any) -> None:
    """Where patterns are computed, another layer is refused without a word of how they are."""
    lm = LanguageModel(make_model("gpt2", attn_implementation="eager"), tokenizer)
    with pytest.raises(
        NoPattern, match="it is no attention layer: choose that of a block"
    ) as caught:
        save(lm, "transformer.h.1.mlp:attention", texts)
    assert "implementation" not in str(caught.value)


def test_inputs_threads_and_buckets(make_model: Any, tokenizer: Any, texts: Any) -> None:
    """Rows of a real model are the same, but for rounding, whoever writes and shares batches."""
    lm = LanguageModel(make_model("llama"), tokenizer)
    layers = ["model.layers.1.mlp:input", "layer_0"]
    plain = save(lm, layers, texts)
    other = save(lm, layers, texts, writing="thread", bucket=True, batch_tokens=64)
    assert plain.layers == ("model.layers.0", "model.layers.1.mlp:input")
    for layer in plain.layers:
        torch.testing.assert_close(other[layer][:], plain[layer][:])
    normed = whole(lm, "model.layers.1.post_attention_layernorm", texts)
    assert same_bits(plain["model.layers.1.mlp:input"][:], normed)


def test_a_state_that_runs_over_padding_on_the_left(
    make_tokenizer: Callable[..., Any], texts: list[str]
) -> None:
    """RWKV takes no mask: refused where padding comes first, right on the other side or alone."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2}
    config = transformers.RwkvConfig(vocab_size=320, context_length=64, **sizes)
    kind: Any = transformers.RwkvModel
    model, layer = kind(config).eval(), "blocks.1"
    left = LanguageModel(model, make_tokenizer("left"))
    with pytest.raises(MaskIgnored, match=r"at 'blocks.1'.*--batch-size 1 .*or pad on the right"):
        save(left, layer, texts)
    alone = left.activations.save(layer, texts, store=(store := MemoryStore()), batch_size=1)
    right = save(LanguageModel(model, make_tokenizer("right")), layer, texts)
    torch.testing.assert_close(right[layer][:], store.run(alone)[layer][:], atol=1e-4, rtol=1e-4)
