"""Running a tokenizer: from several threads, and where it has no token to pad with.

Fast tokenizers keep padding and truncation as state of their own, so one call at a time.
"""

import copy
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from tenterhook.errors import TenterhookError
from tenterhook_capture.special_tokens import SpecialTokens
from tenterhook_store import NOWHERE
from tenterhook_transformers.errors import ModelWithoutTokenizer

_guard = threading.Lock()
_locks: "weakref.WeakKeyDictionary[Any, threading.Lock]" = weakref.WeakKeyDictionary()
_padders: "weakref.WeakKeyDictionary[Any, tuple[int, Any]]" = weakref.WeakKeyDictionary()

Spans = list[tuple[int, int]]
"""Of each token of a text, where its characters begin and end in it."""


class NoPadding(TenterhookError, ValueError):
    """A tokenizer without any token that could fill a batch."""

    def __str__(self) -> str:
        return (
            "The tokenizer has no pad token and no other special token to use for one. Set "
            "tokenizer.pad_token, or pass one text at a time with padding=False."
        )


def texts_of(texts: str | Iterable[str]) -> list[str]:
    """Return a list of the texts; a `str` is one text. Raises `TypeError` for anything else."""
    if isinstance(texts, Mapping):
        raise TypeError(f"Texts are a str or a list of them, not a mapping of {list(texts)}.")
    found = [texts] if isinstance(texts, str) else list(texts)
    for at, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"Text {at} is {type(text).__name__}, not str: {text!r:.60}")
    return found


def lock_of(tokenizer: Any) -> threading.Lock:
    """Return the lock to hold while the tokenizer runs."""
    with _guard:
        return _locks.setdefault(tokenizer, threading.Lock())


def run_tokenizer(tokenizer: Any, texts: list[str], **settings: Any) -> Any:
    """Return what the tokenizer makes of the texts; it is as it was afterwards.

    Where it has no pad token, a copy of it pads with the token that ends, begins or separates
    texts; padded places are masked, so which token it is makes no difference. Raises
    `ModelWithoutTokenizer` where there is no tokenizer.
    """
    if tokenizer is None:
        raise ModelWithoutTokenizer
    with lock_of(tokenizer):
        pads = bool(settings.get("padding"))
        chosen = _with_pad_token(tokenizer) if pads else tokenizer
        return chosen(texts, **settings)


def ids_and_spans(
    tokenizer: Any, texts: list[str], **settings: Any
) -> tuple[list[list[int]], list[Spans]]:
    """Return the ids of each text, and the characters of it that each of them is.

    Takes a fast tokenizer. What it adds to a text, and no character stands for, has `(-1, -1)`.
    """
    if not texts:
        return [], []
    found = run_tokenizer(
        tokenizer,
        texts,
        **{"padding": False, "truncation": False, "verbose": False, **settings},
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    spans = [
        [NOWHERE if is_added else span for span, is_added in zip(offsets, mask, strict=True)]
        for offsets, mask in zip(found["offset_mapping"], found["special_tokens_mask"], strict=True)
    ]
    return found["input_ids"], spans


def special_tokens_of(tokenizer: Any) -> SpecialTokens:
    """Return what a tokenizer puts before and after a text, and which end it keeps of a long one.

    A text is tokenized with and without: no tokenizer says it in a way that all have.
    """
    if tokenizer is None:
        return SpecialTokens()
    settings: dict[str, Any] = {"padding": False, "truncation": False, "verbose": False}
    try:
        (whole,), (inside,) = (
            run_tokenizer(tokenizer, ["a"], add_special_tokens=adds, **settings)["input_ids"]
            for adds in (True, False)
        )
    except TypeError:  # a function of somebody's own, which takes fewer settings
        return SpecialTokens()
    keeps: Literal["start", "end"] = "start"
    if getattr(tokenizer, "truncation_side", "right") == "left":
        keeps = "end"
    for start in range(len(whole) - len(inside) + 1) if inside else ():
        stop = start + len(inside)
        if whole[start:stop] == inside:
            return SpecialTokens(before=whole[:start], after=whole[stop:], keeps=keeps)
    return SpecialTokens(keeps=keeps)


def _with_pad_token(tokenizer: Any) -> Any:
    if getattr(tokenizer, "pad_token_id", None) is not None:
        return tokenizer
    size, padder = _padders.get(tokenizer, (-1, tokenizer))
    if size != len(tokenizer):
        padder = copy.deepcopy(tokenizer)
        for name in ("eos_token", "bos_token", "sep_token", "unk_token"):
            if getattr(tokenizer, name, None) is not None:
                padder.pad_token = getattr(tokenizer, name)
                break
        else:
            raise NoPadding
        _padders[tokenizer] = len(tokenizer), padder
    padder.padding_side = tokenizer.padding_side
    padder.truncation_side = tokenizer.truncation_side
    return padder
