"""One forward over token ids: padded, masked, hooks included."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tenterhook_transformers.errors import EmptyText
from tenterhook_transformers.evaluating import evaluating
from tenterhook_transformers.families import pad_id, position_ids, takes
from tenterhook_transformers.padding import PaddedBatch, pad
from tenterhook_transformers.tokenized_model import TokenizedModel


def padded(model: TokenizedModel, documents: Sequence[Sequence[int]], *, side: str) -> PaddedBatch:
    """Pad the documents into one batch; `EmptyText` for none, or one without a token."""
    if not documents:
        raise EmptyText
    for at, document in enumerate(documents):
        if not len(document):
            raise EmptyText(at)
    return pad(documents, side=side, pad_id=pad_id(model.module, model.tokenizer))


def run_padded(model: TokenizedModel, batch: PaddedBatch, **more: Any) -> None:
    """Run a batch, in eval mode, without gradients; `more` goes to the model's forward as it is."""
    device = model.context.device
    inputs: dict[str, Any] = {"input_ids": batch.input_ids.to(device)}
    inputs["attention_mask"] = batch.attention_mask.to(device)
    positions = position_ids(model.module, batch.attention_mask)
    if positions is not None:
        inputs["position_ids"] = positions.to(device)
    if takes(model.module, "use_cache"):
        inputs["use_cache"] = False  # nothing comes after this forward
    with evaluating(model.module), torch.no_grad():
        model(**inputs, **_on(device, more))


def _on(device: torch.device, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) for name, value in inputs.items()}
