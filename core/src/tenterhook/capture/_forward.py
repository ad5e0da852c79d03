"""From a batch of documents to rows: one forward, and the outputs of layers without padding."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tenterhook.capture._errors import NotPerToken, WrongMask
from tenterhook.store import dtype_name
from tenterhook.text_model import TextModel


def rows_of_batch(
    model: TextModel,
    documents: Sequence[Sequence[int]],
    layers: Sequence[str],
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> dict[str, Tensor]:
    """Run the documents and return a row per token for each layer.

    The rows, `[tokens, features]`, are in the order of the documents, on the CPU, in the dtype the
    layer gave, or that of `dtypes`. Of a layer that a forward calls several times, the last call
    counts. Raises `NotPerToken` where a layer's output is not `(batch, seq, features)`.
    """
    with model.capture(*layers) as captured:
        mask = model.run_token_ids(documents)
        _check_mask(mask, documents)
        return {
            layer: _real_tokens(
                layer, captured[layer], mask, None if dtypes is None else dtypes[layer]
            )
            for layer in layers
        }


def _check_mask(mask: Tensor, documents: Sequence[Sequence[int]]) -> None:
    expected = [len(document) for document in documents]
    found = mask.sum(-1).tolist() if mask.ndim == 2 else list(mask.shape)
    if mask.dtype is not torch.bool or found != expected:
        raise WrongMask(found, expected)


def _real_tokens(
    layer: str, calls: Sequence[Tensor], mask: Tensor, dtype: torch.dtype | None
) -> Tensor:
    batch = tuple(mask.shape)
    if not calls:
        raise NotPerToken(layer, "no tensor", batch)
    output = calls[-1]
    if output.ndim == 2 and len(output) == mask.numel() and mask.shape[0] > 0:
        output = output.reshape(*batch, -1)  # as OPT has its tokens inside a block
    if output.ndim != 3 or tuple(output.shape[:2]) != batch or not output.shape[2]:
        raise NotPerToken(layer, f"{dtype_name(output.dtype)} {list(output.shape)}", batch)
    rows = output[mask.to(output.device)]
    return rows.to(dtype or rows.dtype).cpu()
