"""Tokens as text that is safe to show: what stands for each, in order, nothing hidden in it.

A text may hold marks that turn the direction of writing, halves of letters, or a million characters
without a blank. What no reader sees is written as Python writes it, and long tokens are cut, so
that a page says what the model read and nothing in the text says how the page looks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 80
"""Characters of a token that are shown."""

_SIGNS = {"\n": "↵", "\r": "␍", "\t": "→", "\xa0": "⍽"}
"""What stands for blanks that look like another, or like nothing."""

_CUT = "\ufffd"
"""What decoders write for bytes that are no letter: a token may be a part of one."""


def token_texts(ids: Sequence[int], tokenizer: Any = None) -> list[str]:
    """Return what stands for each token; `#17` for all where there is no tokenizer.

    A letter may be cut into several tokens. The first of them has the letter, the others `‥`.
    """
    if tokenizer is None:
        return [f"#{number}" for number in ids]
    known = {number: _decoded(number, tokenizer) for number in set(ids)}
    found = [known[number] for number in ids]
    at = 0
    while at < len(found):
        if _CUT in found[at]:
            at = _joined(ids, found, at, tokenizer)
        at += 1
    return [visible(text) for text in found]


def _decoded(number: int, tokenizer: Any) -> str:
    text = str(tokenizer.decode([number]))
    pieces = getattr(tokenizer, "convert_ids_to_tokens", None)
    piece = pieces(number) if pieces is not None else None
    # Decoders of words leave out the blank before the first: it is in the token's own name.
    if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
        return f" {text}"
    return text


def _joined(ids: Sequence[int], found: list[str], at: int, tokenizer: Any) -> int:
    """Give a letter that begins at a token to it; return the place of the letter's last token."""
    for stop in range(at + 2, min(at + 5, len(ids) + 1)):
        whole = str(tokenizer.decode(list(ids[at:stop])))
        if _CUT not in whole:
            found[at:stop] = [whole, *["‥"] * (stop - at - 1)]
            return stop - 1
    return at


def visible(text: str, longest: int = LONGEST) -> str:
    """Return text with all that is not seen written out, cut where it is long."""
    shown = "".join(
        each
        if each.isprintable()
        else _SIGNS.get(each) or each.encode("unicode_escape", "backslashreplace").decode()
        for each in text[: longest + 1]
    )
    if len(text) > longest or len(shown) > 4 * longest:
        return f"{shown[:longest]}…(+{len(text) - min(longest, len(text)):,})"
    return shown


def lines_of(texts: Iterable[str]) -> list[str]:
    """Return the texts as visible ones; for those that come from a user and not a tokenizer."""
    return [visible(str(text)) for text in texts]
