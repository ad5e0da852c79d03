"""From texts to what a model's forward takes."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tenterhook_transformers.errors import EmptyText, TooLong
from tenterhook_transformers.families import has_fixed_positions, position_ids
from tenterhook_transformers.tokenized_model import TokenizedModel
from tenterhook_transformers.tokenizing import run_tokenizer, texts_of

if TYPE_CHECKING:
    from transformers import BatchEncoding


def tokenize(model: TokenizedModel, texts: str | Iterable[str], **settings: Any) -> "BatchEncoding":
    """Return the texts as tensors, int64 `(batch, seq)`, on the model's device.

    They are padded to one length. `settings` go to the tokenizer and replace ours.
    `truncation=True` without a length cuts to what the model takes. Raises `EmptyText` for no
    texts, `TypeError` for anything but text.
    """
    found = texts_of(texts)
    if not found:
        raise EmptyText
    chosen = {"padding": True, "return_tensors": "pt", **settings}
    if chosen.get("truncation") and chosen.get("max_length") is None:
        length = getattr(model.tokenizer, "model_max_length", None)
        limits = [limit for limit in (length, model.max_tokens) if limit is not None]
        chosen["max_length"] = min(limits, default=None)
    encodings: BatchEncoding = run_tokenizer(model.tokenizer, found, **chosen)
    if chosen["return_tensors"] == "pt":
        encodings = encodings.to(model.context.device)
    return encodings


def encode(
    model: TokenizedModel, texts: str | Iterable[str], *, positions: bool = True, **settings: Any
) -> "BatchEncoding":
    """Tokenize, check that each text can be run, and add the positions the model has to be told.

    Raises `EmptyText`, `TooLong`.
    """
    encodings = tokenize(model, texts, **{**settings, "return_tensors": "pt"})
    ids = encodings["input_ids"]
    mask = encodings.get("attention_mask", torch.ones_like(ids))
    _check_lengths(model, mask)
    if positions and "position_ids" not in encodings:
        found = position_ids(model.module, mask)
        if found is not None:
            encodings["position_ids"] = found
    return encodings


def _check_lengths(model: TokenizedModel, mask: Tensor) -> None:
    lengths: list[int] = mask.sum(1).tolist()
    limit = model.max_tokens if has_fixed_positions(model.module) else None
    for at, length in enumerate(lengths):
        if not length:
            raise EmptyText(at)
        if limit is not None and length > limit:
            raise TooLong(at, int(length), limit)
