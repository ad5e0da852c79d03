"""Tokens as strings, and strings as tokens."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tenterhook_transformers import LanguageModel, ModelWithoutTokenizer, NotOneToken

Make = Callable[..., Any]


@pytest.fixture
def lm(make_model: Make, tokenizer: Any) -> LanguageModel:
    """A model whose tokenizer works on bytes."""
    return LanguageModel(make_model(), tokenizer)


@pytest.fixture
def of_words(make_model: Make) -> LanguageModel:
    """A model whose tokenizer writes the blank before a word into it, as SentencePiece does."""
    known = {"<s>": 0, "<pad>": 1, "▁the": 2, "▁dog": 3, "the": 4, "▁": 5}
    tokenizer = Tokenizer(models.BPE(vocab=known, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    kind: Any = transformers.PreTrainedTokenizerFast
    return LanguageModel(make_model(), kind(tokenizer_object=tokenizer, pad_token="<pad>"))


def test_the_strings_make_the_text(lm: LanguageModel) -> None:
    """Special tokens stand as they are called, and blanks with the word after them."""
    text = "The quick brown fox"

    strings = lm.token_strings(text)

    assert strings[0] == "<s>"
    assert "".join(strings[1:]) == text
    assert len(strings) == len(lm.token_ids([text])[0])
    assert lm.token_strings(lm.token_ids([text])[0]) == strings


def test_a_part_of_a_letter(lm: LanguageModel) -> None:
    """It is no text, and the others are still theirs."""
    assert lm.token_strings("aé")[1:] == ["a", "\ufffd", "\ufffd"]


def test_blanks_of_words(of_words: LanguageModel) -> None:
    """They are there where the tokenizer's own decoder leaves them out."""
    assert of_words.token_strings("the dog") == [" the", " dog"]
    assert of_words.single_token(" the") == 2
    assert of_words.single_token("the") == 2  # what the tokenizer makes of it


def test_one_token(lm: LanguageModel) -> None:
    """Its id is what the text is tokenized to, without the token that begins texts."""
    assert lm.token_strings([lm.single_token(" the")]) == [" the"]


def test_several_tokens_are_named(lm: LanguageModel) -> None:
    """So that one of them can be given."""
    with pytest.raises(NotOneToken, match=r"' zebra' is not one token: .* makes 6 of it, ' ', 'z'"):
        lm.single_token(" zebra")
    with pytest.raises(NotOneToken, match=r"'' is not one token: .* makes 0 of it, none"):
        lm.single_token("")
    error = NotOneToken("ab", ("a", "b"))
    assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == str(error)


def test_a_model_without_a_tokenizer(make_model: Make) -> None:
    """It has no strings."""
    lm = LanguageModel(make_model())

    with pytest.raises(ModelWithoutTokenizer):
        lm.token_strings([1])
    with pytest.raises(ModelWithoutTokenizer):
        lm.single_token(" the")
