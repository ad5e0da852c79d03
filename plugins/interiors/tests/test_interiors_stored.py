"""Rows of points in a store: heads side by side, patterns by their keys, experts as two arrays."""

from typing import Any

import pytest
import torch
from families import FAMILIES

import tenterhook
from tenterhook.loading import load_model
from tenterhook_capture import save_activations
from tenterhook_store import MemoryStore
from tenterhook_transformers import LanguageModel

TEXTS = ["In the beginning was the word.", "A store keeps rows.", "So."]


def saved(model: Any, *layers: str, **options: Any) -> Any:
    """Save layers of the texts and return the run."""
    store = MemoryStore()
    return store.run(save_activations(model, list(layers), TEXTS, store, batch_size=2, **options))


def test_a_row_is_a_tokens_heads() -> None:
    """Padding or not, it is what a capture of the text alone gives."""
    model: Any = load_model("tiny:")
    run = saved(model, "z.1", "q.0", "pattern.2", "resid_mid.3")

    assert set(run.layers) == {"z.1", "q.0", "pattern.2", "resid_mid.3"}
    ids = model.tokenize(TEXTS[:1])["input_ids"]
    count = ids.shape[1]
    with torch.no_grad(), model.capture("z.1", "q.0", "pattern.2", "resid_mid.3") as captured:
        model(ids)
    for name in ("z.1", "q.0", "resid_mid.3"):
        wanted = captured.last(name)[0].flatten(1)
        assert torch.allclose(torch.as_tensor(run[name][:count]), wanted, atol=1e-5), name
    rows = torch.unflatten(torch.as_tensor(run["pattern.2"][:count]), -1, (4, -1))[..., :count]
    assert torch.allclose(rows.transpose(0, 1), captured.last("pattern.2")[0], atol=1e-5)


def test_patterns_are_those_of_the_layer() -> None:
    """`LAYER:attention` of the eager model gives the same rows."""
    model: Any = load_model("tiny:", attn_implementation="eager")
    run = saved(model, "pattern.1", "transformer.h.1.attn:attention")

    first, second = (torch.as_tensor(run[name][:]) for name in run.layers)
    assert torch.equal(first, second)


def test_experts_are_two_arrays() -> None:
    """Ids and weights of the chosen experts, and the router's logits, of each token."""
    tokenizer: Any = load_model("tiny:")
    module = FAMILIES["Mixtral"].make(vocab_size=len(tokenizer.context.tokenizer))
    model = LanguageModel(module, tokenizer.context.tokenizer)
    run = saved(model, "experts.1:ids", "experts.1:weights", "router.1")

    rows = {name: torch.as_tensor(run[name][:]) for name in run.layers}
    chosen = rows["router.1"].topk(2).indices.sort(-1).values
    assert torch.equal(rows["experts.1:ids"].long().sort(-1).values, chosen)
    assert torch.allclose(rows["experts.1:weights"].sum(-1), torch.ones(len(chosen)), atol=1e-5)


def test_a_refused_name_says_why() -> None:
    """Before anything is written."""
    with pytest.raises(tenterhook.UnknownLayer, match="The block has no experts"):
        saved(load_model("tiny:"), "experts.1")
