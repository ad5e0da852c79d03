"""Small real models, made from config, of the families that people use, and a real tokenizer."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "In the beginning was the word, and the word was long.",
    "Hooks watch what happens inside models; controllers change it.",
    "Short.",
    "A store keeps terabytes of activations, row by row, token by token, and nothing is lost.",
    "Tokens are real or padding.",
]

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2", "LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "llama": ("Llama", "ForCausalLM", _GROUPED),
    "qwen2": ("Qwen2", "ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3", "ForCausalLM", _HEADS),
    "mistral": ("Mistral", "ForCausalLM", {**_HEADS, "sliding_window": 16}),
    "gemma": ("Gemma", "ForCausalLM", _HEADS),
    "gemma2": ("Gemma2", "ForCausalLM", {**_HEADS, "sliding_window": 16}),
    "gemma3": ("Gemma3", "ForCausalLM", {**_HEADS, "sliding_window": 16}),
    "bert": ("Bert", "ForMaskedLM", _SIZES),
    "opt": (
        "OPT",
        "ForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
        },
    ),
    "roberta": ("Roberta", "ForMaskedLM", {**_SIZES, "max_position_embeddings": 66}),
}


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    """A byte-level BPE trained on a few sentences; it begins every text with a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


@pytest.fixture
def make_tokenizer(trained: Tokenizer) -> Callable[..., Any]:
    """Return a function that makes a fast tokenizer: which side pads, whether it can pad."""

    def make(side: str = "right", *, padding: bool = True, begins: bool = True) -> Any:
        inner = Tokenizer.from_str(trained.to_str())
        if begins:
            inner.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 0)]
            )
        kind: Any = transformers.PreTrainedTokenizerFast
        return kind(
            tokenizer_object=inner,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>" if padding else None,
            padding_side=side,
        )

    return make


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    """A tokenizer that pads on the right."""
    return make_tokenizer()


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Return a function that makes the model of a family, seeded, with lively weights."""

    def make(family: str = "gpt2", **settings: Any) -> Any:
        name, head, sizes = FAMILIES[family]
        tokens = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        part = "Text" if family == "gemma3" else ""
        config = getattr(transformers, f"{name}{part}Config")(
            **{"vocab_size": 320, **sizes, **tokens, **settings}
        )
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}{head}")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def texts() -> list[str]:
    """Texts of unequal length."""
    return list(TEXTS)


MARKERS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
MARKERS += ["<start_of_turn>", "<end_of_turn>", "<think>", "</think>"]


@pytest.fixture(scope="session")
def chat_tokenizer(
    trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Return a function that gives a tokenizer with a chat template, from files.

    `marks` says whether `<think>` is a token. It is made once for each template.
    """
    made: dict[tuple[str, bool], Any] = {}

    def of(template: str, *, marks: bool = True) -> Any:
        key = template, marks
        if key not in made:
            folder = tmp_path_factory.mktemp("tokenizer")
            trained.save(str(folder / "tokenizer.json"))
            names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
            kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
            (folder / "tokenizer_config.json").write_text(json.dumps({**kind, **names}))
            (folder / "chat_template.jinja").write_text(template)
            auto: Any = transformers.AutoTokenizer
            tokenizer = made[key] = auto.from_pretrained(str(folder))
            markers = [each for each in MARKERS if marks or "think" not in each]
            tokenizer.add_tokens(markers, special_tokens=True)
        return made[key]

    return of
