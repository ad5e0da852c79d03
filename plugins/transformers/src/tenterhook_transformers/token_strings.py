"""Tokens as strings, and strings as tokens: what each token of a text stands for."""

from collections.abc import Sequence

from tenterhook_transformers.errors import ModelWithoutTokenizer, NotOneToken
from tenterhook_transformers.tokenized_model import TokenizedModel
from tenterhook_transformers.tokenizing import run_tokenizer

_BLANK = "▁"
"""What tokenizers of words write for the blank before a word, and leave out when they decode."""


def token_strings(model: TokenizedModel, text: str | Sequence[int]) -> list[str]:
    """Return what each token stands for, of a text with its special tokens, or of token ids.

    A token that is a part of a letter's bytes is the replacement character, `"\\ufffd"`. Raises
    `ModelWithoutTokenizer`.
    """
    if model.tokenizer is None:
        raise ModelWithoutTokenizer
    ids = model.token_ids([text])[0] if isinstance(text, str) else [int(each) for each in text]
    known = {id: _string_of(model, id) for id in set(ids)}
    return [known[id] for id in ids]


def single_token(model: TokenizedModel, text: str) -> int:
    """Return the id of the token that a text is; `NotOneToken` where it is none, or several."""
    if model.tokenizer is None:
        raise ModelWithoutTokenizer
    found = [_inside(model, text)]
    if text.startswith(" ") and len(text) > 1:
        found.append(_inside(model, text[1:]))  # tokenizers of words put the blank there themselves
    for ids in found:
        if len(ids) == 1 and _string_of(model, ids[0]) == text:
            return ids[0]
    if len(found[0]) != 1:
        raise NotOneToken(text, tuple(token_strings(model, found[0])))
    return found[0][0]


def _inside(model: TokenizedModel, text: str) -> list[int]:
    """Return the tokens of a text without the special ones around it."""
    settings = {"padding": False, "truncation": False, "add_special_tokens": False}
    (ids,) = run_tokenizer(model.tokenizer, [text], **settings)["input_ids"]
    return list(ids)


def _string_of(model: TokenizedModel, id: int) -> str:
    text = str(model.tokenizer.decode([id]))
    piece_of = getattr(model.tokenizer, "convert_ids_to_tokens", None)
    piece = piece_of(id) if piece_of is not None else None
    if isinstance(piece, str) and piece.startswith(_BLANK) and not text.startswith(" "):
        return f" {text}"
    return text
