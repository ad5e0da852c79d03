"""Selections at points: heads, and tokens whose patterns are the same however the model is run."""

from typing import Any

import pytest
import torch
from families import FAMILIES
from torch import Tensor

import tenterhook

KINDS = {"z.1": 2, "q.1": 2, "k.0": 2, "q_pre.0": 2, "pattern.1": 1, "scores.1": 1}
"""Where the heads are."""


@pytest.fixture(scope="module")
def model() -> Any:
    """Return a Llama in float64, attached."""
    return tenterhook.attach(FAMILIES["Llama"].make().double())


@pytest.fixture
def ids() -> Tensor:
    """Return two rows of four tokens: as many as there are heads."""
    return torch.randint(2, 90, (2, 4), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", KINDS)
def test_heads_are_picked(model: Any, ids: Tensor, name: str) -> None:
    """In the order asked for; of tokens and rows too, and with features of each."""
    with (
        torch.no_grad(),
        model.capture(name) as whole,
        model.capture(name, heads=[1, 0]) as some,
        model.capture(name, heads=-1, rows=1) as row,
        model.capture(name, heads=1, tokens=[0, 2], features=[2, 0]) as tokens,
    ):
        model(ids)
    full, at = whole.last(name), KINDS[name]
    assert torch.equal(some.last(name), full.index_select(at, torch.tensor([1, 0])))
    assert torch.equal(row.last(name), full[1:].narrow(at, full.shape[at] - 1, 1))
    by_token = full if at == 2 else full.transpose(1, 2)
    wanted = by_token[:, [0, 2], 1:2][..., [2, 0]].flatten(0, 1)
    assert torch.equal(tokens.last(name), wanted)


@pytest.mark.parametrize("name", ["z.1", "v.0", "pattern.0"])
def test_heads_are_changed(model: Any, ids: Tensor, name: str) -> None:
    """Those alone, of those tokens alone, by a function or by what was captured."""
    changed = (slice(None), 1, 3) if name == "pattern.0" else (slice(None), 3, 1)
    part: dict[str, Any] = {"heads": 1, "tokens": -1}
    with torch.no_grad(), model.capture(name) as before:
        model(ids)
    wanted = before.last(name).clone()
    wanted[changed] = 0
    with (
        torch.no_grad(),
        model.steer(name, torch.zeros_like, **part) as receipt,
        model.capture(name) as after,
    ):
        model(ids)
    assert torch.equal(after.last(name), wanted)
    assert receipt.tokens == 2

    with torch.no_grad(), model.capture(name, **part) as few:
        model(ids + 1)
    wanted[changed] = few.last(name)[:, 0]
    with torch.no_grad(), model.steer(name, few.last(name), **part), model.capture(name) as put:
        model(ids)
    assert torch.equal(put.last(name), wanted)
    with (
        pytest.raises(tenterhook.HookError, match=r"of shape \(2, 1, 2\) are put back where"),
        model.steer(name, few.last(name)[..., :2], **part),
    ):
        model(ids)


def test_heads_where_there_are_none(model: Any, ids: Tensor) -> None:
    """It is said at the layer which places have some; a head beyond is an error, too."""
    with (
        pytest.raises(ValueError, match=r"Layer 'model.layers.0.mlp': Heads .* Name a place that"),
        model.capture("model.layers.0.mlp", heads=1),
    ):
        model(ids)
    with (
        pytest.raises(tenterhook.HookError, match="this LlamaMLP does not say that it has an axis"),
        model.steer("model.layers.0.mlp", torch.zeros_like, heads=1),
    ):
        model(ids)
    with (
        pytest.raises(IndexError, match=r"Layer 'k.0': There is no head 3; there are 2"),
        model.capture("k.0", heads=3),
    ):
        model(ids)


WAYS: dict[str, dict[str, Any]] = {
    "cache": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "samples": {"num_return_sequences": 2, "do_sample": True},
    "chunks": {"prefill_chunk_size": 2},
    "lookup": {"prompt_lookup_num_tokens": 2},
}


def returned_rows(name: str, model: Any, ids: Tensor, way: str, **part: Any) -> Any:
    """Return what a generation had at a point of each row that it returned, and these rows."""
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    ids, mask = (ids[:1, 2:], mask[:1, 2:]) if way == "lookup" else (ids, mask)
    settings = {"max_new_tokens": 5, "do_sample": False, **WAYS[way]}
    torch.manual_seed(0)
    with model.capture(name, missing="ignore", **part) as captured:
        returned = model.module.generate(ids, attention_mask=mask, **settings)
    real = mask.argmax(1).repeat_interleave(len(returned) // len(ids)).tolist()
    return captured.by_row(name), [row[None, at:] for row, at in zip(returned, real, strict=True)]


@pytest.mark.matrix(sample=4)
@pytest.mark.parametrize("family", ["Llama", "Mistral", "GPT-2"])
@pytest.mark.parametrize("name", ["pattern.1", "scores.0"])
@pytest.mark.parametrize("way", WAYS)
def test_patterns_of_tokens(name: str, family: str, way: str, ids: Tensor) -> None:
    """A row's tokens have the keys of one forward over the row, in whatever way it was run."""
    model = tenterhook.attach(FAMILIES[family].make().double())
    rows, texts = returned_rows(name, model, ids, way, tokens=":")
    for found, text in zip(rows, texts, strict=True):
        with torch.no_grad(), model.capture(name) as alone:
            model(text)
        count = len(found)
        assert count >= text.shape[1] - 1
        wanted = alone.last(name)[0, :, :count, :count].transpose(0, 1)
        least = torch.finfo(torch.float32).min / 2
        wanted = wanted.masked_fill(wanted < least, 0)
        found = found.masked_fill(found < least, 0)
        assert torch.allclose(found, wanted, atol=1e-5)


def test_a_pattern_of_generated_tokens(model: Any, ids: Tensor) -> None:
    """Of one head; the keys go back to the row's first token, and end with the last one."""
    rows, texts = returned_rows("pattern.1", model, ids, "cache", phase="generated", heads=2)
    for found, text in zip(rows, texts, strict=True):
        with torch.no_grad(), model.capture("pattern.1") as alone:
            model(text)
        count = text.shape[1] - 1
        assert found.shape == (4, 1, count)
        wanted = alone.last("pattern.1")[0, 2, count - 4 : count, :count]
        assert torch.allclose(found[:, 0], wanted, atol=1e-5)


def test_a_pattern_of_tokens_in_a_padded_batch(model: Any, ids: Tensor) -> None:
    """Padding is no key; what is put back where it was changes nothing."""
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    with torch.no_grad(), model.capture("pattern.0", tokens=[-1, 0]) as captured:
        plain = model(ids, attention_mask=mask).logits
    first, second = captured.by_row("pattern.0")
    assert captured.last("pattern.0").shape == (4, 4, 4)
    assert (first.shape, second.shape) == ((2, 4, 2), (2, 4, 4))
    assert torch.allclose(first.sum(-1), torch.ones((), dtype=first.dtype))
    assert torch.equal(first[0, :, 0], torch.ones(4, dtype=first.dtype))
    values = captured.last("pattern.0")
    with torch.no_grad(), model.steer("pattern.0", values, tokens=[-1, 0]):
        again = model(ids, attention_mask=mask).logits
    real = mask.bool()  # kernels differ in what a token of padding attends to
    assert torch.allclose(plain[real], again[real], atol=1e-6)
