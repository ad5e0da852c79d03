"""The rows of a capture: what a bare torch hook gives, whatever the batch and the padding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tenterhook_capture import save_activations
from tenterhook_store import MemoryStore
from tenterhook_transformers import LanguageModel

FAMILIES = (
    "gpt2",
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3",
    "bert",
    "opt",
    "roberta",
)
SIDES = ("left", "right")

Make = Callable[..., Any]


def layers_of(lm: LanguageModel) -> list[str]:
    """Return a block and a leaf inside it, the leaf first."""
    block = lm.layers.index.blocks()[1]
    leaves = [
        name
        for name, module in lm.module.named_modules()
        if name.startswith(f"{block}.") and isinstance(module, nn.LayerNorm | nn.Linear)
    ]
    return [leaves[0], block]


def bare(module: nn.Module, layer: str, **inputs: Any) -> torch.Tensor:
    """Return what a torch hook sees at a layer."""
    seen: list[Any] = []
    handle = module.get_submodule(layer).register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    with torch.no_grad():
        module(**inputs)
    handle.remove()
    (output,) = seen
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return found


def alone(lm: LanguageModel, layer: str, ids: list[int]) -> torch.Tensor:
    """Return what a torch hook sees at a layer for one document, without padding."""
    return bare(lm.module, layer, input_ids=torch.tensor([ids]))[0]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family of models."""
    name: str = request.param
    return name


@pytest.fixture(params=SIDES)
def lm(
    request: pytest.FixtureRequest, family: str, make_model: Make, make_tokenizer: Make
) -> LanguageModel:
    """A model of each family, padding on each side."""
    return LanguageModel(make_model(family), make_tokenizer(request.param))


def test_rows_equal_the_unbatched_documents(lm: LanguageModel, texts: list[str]) -> None:
    """In a padded batch each document's rows are those it has alone, to float tolerance."""
    documents = lm.token_ids(texts)
    for layer in layers_of(lm):
        with lm.capture(layer) as captured:
            mask = lm.run_token_ids(documents)
        assert mask.sum(1).tolist() == [len(ids) for ids in documents]
        for row, real, ids in zip(captured.last(layer), mask, documents, strict=True):
            torch.testing.assert_close(row[real], alone(lm, layer, ids), atol=2e-5, rtol=1e-4)


def test_rows_equal_a_bare_hook_on_the_same_batch(lm: LanguageModel, texts: list[str]) -> None:
    """On the same batch they are, to the bit, what a torch hook sees."""
    encodings = lm.inference.execute_inference(texts)[1]
    for layer in layers_of(lm):
        with lm.capture(layer) as captured:
            lm.run_token_ids(lm.token_ids(texts))
        assert torch.equal(captured.last(layer), bare(lm.module, layer, **encodings))


def test_inference_equals_the_unbatched_documents(lm: LanguageModel, texts: list[str]) -> None:
    """So do the logits of `execute_inference`, whichever side the tokenizer pads."""
    outputs, encodings = lm.inference.execute_inference(texts)
    for row, mask, ids in zip(
        outputs.logits, encodings["attention_mask"], lm.token_ids(texts), strict=True
    ):
        with torch.no_grad():
            expected = lm.module(input_ids=torch.tensor([ids])).logits[0]
        torch.testing.assert_close(row[mask.bool()], expected, atol=2e-5, rtol=1e-4)


def test_saved_rows_equal_the_unbatched_documents(lm: LanguageModel, texts: list[str]) -> None:
    """What is saved, in batches of any size and layers in any order, is what a torch hook sees."""
    leaf, block = layers_of(lm)
    documents = lm.token_ids(texts)
    store = MemoryStore()
    for batch_size, layers in ((1, [leaf, block]), (4, [block, leaf]), (32, [leaf, block])):
        run_id = lm.activations.save(
            layers, texts, f"of-{batch_size}", None, batch_size, store=store
        )
        run = store.run(run_id)
        assert run.tokens[:].tolist() == [id for ids in documents for id in ids]
        for layer in layers:
            expected = torch.cat([alone(lm, layer, ids) for ids in documents])
            found = run[layer][:]
            if batch_size == 1:
                assert torch.equal(found, expected)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_saved_rows_equal_a_bare_hook_to_the_bit(lm: LanguageModel, texts: list[str]) -> None:
    """Of the same batch, what is saved equals what a torch hook sees, to the bit."""
    store = MemoryStore()
    encodings = lm.inference.execute_inference(texts)[1]
    mask = encodings["attention_mask"].bool()
    for layer in layers_of(lm):
        run_id = lm.activations.save(layer, texts, store=store, batch_size=len(texts))
        expected = bare(lm.module, layer, **encodings)[mask]
        assert torch.equal(store.run(run_id)[layer][:], expected)


@pytest.mark.parametrize("side", SIDES)
def test_bfloat16_is_kept(
    family: str, side: str, make_model: Make, make_tokenizer: Make, texts: list[str]
) -> None:
    """A model in bfloat16 gives rows in bfloat16, bit for bit."""
    lm = LanguageModel(make_model(family).to(torch.bfloat16), make_tokenizer(side))
    store = MemoryStore()
    layer = layers_of(lm)[1]
    run_id = save_activations(lm, layer, texts[:1], store)
    rows = store.run(run_id)[layer][:]
    assert rows.dtype is torch.bfloat16
    assert torch.equal(rows, alone(lm, layer, lm.token_ids(texts)[0]))


def test_max_tokens(family: str, make_model: Make, tokenizer: Any) -> None:
    """Each family's context length is found, and a document of that length runs."""
    lm = LanguageModel(make_model(family), tokenizer)
    assert lm.max_tokens == 64
    assert lm.run_token_ids([[5] * 64]).shape == (1, 64)


def test_leaf_that_sees_tokens_in_one_row(
    make_model: Make, make_tokenizer: Make, texts: list[str]
) -> None:
    """OPT's MLP flattens batch and tokens into one axis; its rows are kept all the same."""
    lm = LanguageModel(make_model("opt"), make_tokenizer("left"))
    layer = "model.decoder.layers.1.fc1"
    store = MemoryStore()
    rows = store.run(lm.activations.save(layer, texts, store=store))[layer][:]
    expected = [
        bare(lm.module, layer, input_ids=torch.tensor([ids])) for ids in lm.token_ids(texts)
    ]
    torch.testing.assert_close(rows, torch.cat(expected), atol=2e-5, rtol=1e-4)
