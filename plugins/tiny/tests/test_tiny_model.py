"""The model: that it has learned, loads with plain transformers, and is named as it should be."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenterhook_tiny import NoRevisions, UnknownName, load, model_path, sample_path

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    """The numbers that ship."""
    found: dict[str, Any] = json.loads((model_path().parent / "evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """The texts that ship."""
    lines = sample_path().read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def model() -> Any:
    """The model, by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(model_path())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The tokenizer, by transformers alone."""
    return AutoTokenizer.from_pretrained(model_path())


def test_model_is_small(model: Any, evaluation: dict[str, Any]) -> None:
    """The weights are as many as the numbers say and fit a wheel."""
    assert model.num_parameters() == evaluation["model"]["parameters"]
    assert (model_path() / "model.safetensors").stat().st_size < 8_000_000


def test_tokenizer_gives_text_back(tokenizer: Any, texts: list[str]) -> None:
    """Every text, and text of any other kind, comes back from its ids as it was."""
    for text in [*texts, "naïve ☕\t\n  two  spaces ", ""]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_tokens(tokenizer: Any, model: Any) -> None:
    """The tokenizer and the config agree; padding has a token of its own."""
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.bos_token_id == model.config.eos_token_id == tokenizer.bos_token_id
    assert len(tokenizer) == model.config.vocab_size


def test_sample_fits_the_context(tokenizer: Any, model: Any, texts: list[str]) -> None:
    """No document of the sample is longer than the model can take."""
    assert max(map(len, tokenizer(texts)["input_ids"])) <= model.config.n_positions


def test_model_beats_the_bigram(
    model: Any, tokenizer: Any, texts: list[str], evaluation: dict[str, Any]
) -> None:
    """On text it never saw, the model's loss is what we say it is, and far below the bigram's."""
    expected = evaluation["first_documents"]
    losses = []
    for ids in tokenizer(texts[: expected["documents"]])["input_ids"]:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        losses.append(functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none"))
    loss = torch.cat(losses)
    assert len(loss) == expected["tokens"]
    assert loss.mean().item() == pytest.approx(expected["nats_per_token"]["model"], abs=2e-3)
    assert loss.mean().item() < expected["nats_per_token"]["bigram"] - 0.3


def test_model_beats_both_baselines(evaluation: dict[str, Any]) -> None:
    """On the whole sample the order is as it should be: model, then bigram, then unigram."""
    scores = evaluation["held_out"]["nats_per_token"]
    assert scores["model"] < scores["bigram"] - 0.3 < scores["unigram"] - 1


def test_readme_states_the_numbers(evaluation: dict[str, Any]) -> None:
    """The table in the README is the evaluation that ships, digit for digit."""
    rows = re.findall(r"^\| (model|bigram|unigram)\b.*\| ([\d.]+) \|$", README.read_text(), re.M)
    scores = evaluation["held_out"]["nats_per_token"]
    assert {name: float(number) for name, number in rows} == scores


def test_readme_states_the_sizes(evaluation: dict[str, Any]) -> None:
    """So are the other numbers."""
    text = README.read_text()
    held_out = evaluation["held_out"]
    assert f"{held_out['documents']} documents" in text
    assert f"{held_out['tokens']:,} tokens" in text
    assert f"{evaluation['text']['training_tokens']:,} tokens" in text
    assert f"{evaluation['model']['parameters']:,} parameters" in text
    assert f"{evaluation['shared_with_training']['share']:.2%}" in text


def test_generates_scripture(model: Any, tokenizer: Any) -> None:
    """Greedy continuation is made of words of the Bible, not of noise."""
    inputs = tokenizer("And the LORD spake unto Moses,", return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "unto Moses, saying,\nSpeak unto" in tokenizer.decode(ids[0])


def test_unknown_model() -> None:
    """A model that is not there is an error that names those that are."""
    with pytest.raises(UnknownName, match="no model 'tiny:gpt3', only 'tiny:' or 'tiny:kjv' or"):
        load("gpt3")


def test_no_revisions() -> None:
    """Asking for a revision is an error that says what to do."""
    with pytest.raises(NoRevisions, match=r"revision='main'.*Leave it out"):
        load("", revision="main")


@pytest.mark.parametrize("name", ["", "kjv"])
def test_load_gives_a_text_model(name: str) -> None:
    """Both names give the model, ready to tokenize and run, under the one name it is known by."""
    lm = load(name)
    assert lm.context.model_id == "tiny:"
    assert lm.max_tokens == 256
    documents = lm.token_ids(["In the beginning", "God"])
    with lm.capture("transformer.h.1") as captured:
        mask = lm.run_token_ids(documents)
    assert mask.sum(1).tolist() == [len(ids) for ids in documents]
    assert captured.last("transformer.h.1").shape == (*mask.shape, 128)


def test_load_hands_on_the_dtype_and_the_device() -> None:
    """The weights are of the dtype and on the device that the caller asked for."""
    lm = load("", dtype="bfloat16", device="cpu")
    assert lm.context.dtype == torch.bfloat16
    assert lm.context.device == torch.device("cpu")


def test_description_names_no_folder_of_this_machine() -> None:
    """What a run says of the model is the same wherever the package is installed."""
    assert str(model_path().parent) not in json.dumps(load("").describe_model())
