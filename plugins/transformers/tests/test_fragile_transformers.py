"""What we lean on in transformers that it does not promise; see docs/explanation/fragile.md."""

from typing import Any

import pytest
import torch
import transformers
from transformers.utils import logging as shown_logging

from tenterhook_transformers.families import positions_from_ids


def test_how_an_auto_class_says_that_it_has_no_model() -> None:
    """The loader goes on to the next class by what the `ValueError` says."""
    auto: Any = transformers.AutoModelForCausalLM
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        auto.from_config(transformers.ViTConfig())


def test_models_that_count_positions_from_ids_say_so() -> None:
    """Of RoBERTa and its like, by the name of a function: on the module or on a layer."""
    sizes: dict[str, Any] = {
        "vocab_size": 9,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "intermediate_size": 4,
    }
    roberta = transformers.RobertaConfig(**sizes, num_attention_heads=1)
    bert = transformers.BertConfig(**sizes, num_attention_heads=1)

    assert positions_from_ids(transformers.RobertaModel(roberta))
    assert not positions_from_ids(transformers.BertModel(bert))


def test_a_cache_says_its_length_and_shows_its_layers() -> None:
    """`get_seq_length` counts what is past, `layers[0].keys` holds it."""
    cache: Any = transformers.DynamicCache()
    assert cache.get_seq_length() == 0

    keys = torch.ones(1, 2, 3, 4)
    cache.update(keys, keys, 0)

    assert cache.get_seq_length() == 3
    assert cache.layers[0].keys.shape == keys.shape


def test_bars_can_be_turned_off() -> None:
    """The loader turns them off while weights are read, and on again."""
    logging: Any = shown_logging  # its functions have no types
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        assert not logging.is_progress_bar_enabled()
    finally:
        if shown:
            logging.enable_progress_bar()
