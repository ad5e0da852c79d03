"""`tiny:induction`: that it copies, loads with plain transformers, and what it was trained on."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenterhook_tiny import load, model_path

SCRIPT = Path(__file__).parents[1] / "training" / "train_induction.py"


@pytest.fixture(scope="module")
def script() -> Any:
    """The training script as a module."""
    spec = importlib.util.spec_from_file_location("tiny_train_induction", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_copies(script: Any) -> None:
    """What a text has shown before it knows; of the rest it can know nothing."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_path("induction"))
    ids, lengths = script.texts(64, torch.Generator().manual_seed(7))
    with torch.no_grad():
        loss = script.loss_of_copies(model, ids, lengths).item()
        new = torch.nn.functional.cross_entropy(model(ids).logits[:, 2], ids[:, 3]).item()
    assert loss < 0.2
    assert new > math.log(len(script.LETTERS)) - 0.5
    assert all(not each.any() for block in model.model.layers for each in block.mlp.parameters())


def test_the_tokenizer_is_the_scripts(script: Any) -> None:
    """A token is a letter, and comes back as it was; the token to begin with comes first."""
    made, shipped = script.new_tokenizer(), AutoTokenizer.from_pretrained(model_path("induction"))
    for text in ("QwErTy", script.LETTERS, ""):
        ids = shipped(text)["input_ids"]
        assert ids == made(text)["input_ids"]
        assert len(ids) == len(text) + 1
        assert shipped.decode(ids, skip_special_tokens=True) == text


def test_named() -> None:
    """It loads by its name, and says so."""
    lm = load("tiny:induction")
    assert lm.context.model_id == "tiny:induction"
    assert lm.generate("abcdeabc", max_new_tokens=3, do_sample=False).text == "abcdeabcdea"


def test_texts_repeat(script: Any) -> None:
    """A run of its length, over and over, after the token to begin with."""
    ids, lengths = script.texts(20, torch.Generator().manual_seed(0))
    assert ids.shape == (20, script.LENGTH)
    for row, length in zip(ids, lengths.tolist(), strict=True):
        assert row[0] == 0
        assert (row[1:] > 1).all()
        assert torch.equal(row[1 + length :], row[1:-length])


def test_training_goes(script: Any) -> None:
    """Some steps give the same weights each time, and leave the MLPs at nothing."""
    first, again = script.train(4), script.train(4)
    for (name, mine), other in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other), name
        assert ("mlp" in name) == (not mine.any())
