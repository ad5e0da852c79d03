"""Models for the tests of analyses: the one that ships, and small ones of other families."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from tenterhook_capture.loading import load_model
from tenterhook_transformers import LanguageModel

Make = Callable[..., LanguageModel]

_GROUPED = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "llama": ("Llama", {**_GROUPED, "tie_word_embeddings": False}),
    "llama-bias": ("Llama", {**_GROUPED, "attention_bias": True, "mlp_bias": True}),
    "gemma2": ("Gemma2", _GROUPED),
    "granite": ("Granite", {**_GROUPED, "logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "neox": ("GPTNeoX", {**_GROUPED, "use_parallel_residual": True}),
    "bert": ("Bert", _GROUPED),
}


@pytest.fixture(scope="session")
def tiny() -> LanguageModel:
    """The model that ships: a GPT-2 of four blocks, its embeddings tied."""
    lm = load_model("tiny:")
    assert isinstance(lm, LanguageModel)
    return lm


@pytest.fixture
def make_lm(tiny: LanguageModel) -> Make:
    """Return a function that makes a model of a family, seeded, with lively weights."""

    def make(family: str, side: str = "right", **settings: Any) -> LanguageModel:
        name, sizes = FAMILIES[family]
        tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "vocab_size": 2048}
        config = getattr(transformers, f"{name}Config")(**{**sizes, **tokens, **settings})
        head = {"GPT2": "GPT2LMHeadModel", "Bert": "BertLMHeadModel"}
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(transformers, head.get(name, f"{name}ForCausalLM"))(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        tokenizer: Any = type(tiny.tokenizer)(tokenizer_object=tiny.tokenizer._tokenizer)
        tokenizer.pad_token, tokenizer.padding_side = tiny.tokenizer.decode([1]), side
        return LanguageModel(model, tokenizer)

    return make
