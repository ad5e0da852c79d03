"""How many tokens run at once, where nobody says: from the model, its device and the layers kept.

Two things bound it.

- Speed. Matrix products need enough rows to keep the cores busy; past that more rows gain nothing,
  and on a processor lose, since what one layer hands to the next no longer fits into its caches.
  So `TOKENS_PER_THREAD` for each thread of torch on a processor, `MOST_TOKENS` on an accelerator.
- Memory. A token takes the values that are kept of it, twice (as captured, and gathered without
  the padding), and what a layer works on: `WORKED_ON` times the widest output of a matrix. A batch
  of them may take `FLOOR_BYTES`, or an eighth of what there is for it: of the memory that the
  parameters leave free on an accelerator, of what the parameters take on a processor.

The result is a power of two, and follows from the total memory and not from what is free just now:
the same call on the same machine chooses the same. On another machine it may choose another
number; a run keeps the number that it was begun with, and whoever goes on with it uses that.
"""

from collections.abc import Sequence

import torch
from torch import nn

from tenterhook_capture.text_model import TextModel
from tenterhook_store import LayerArray, torch_dtype

TOKENS_PER_THREAD = 1024
"""Measured with `tiny:` on one and two cores: 1,024 to 2,048 tokens are the fastest or within noise
of it, and 256 take half as long again."""

LEAST_TOKENS = 512
"""Fewer, and calling the layers takes longer than what they compute."""

MOST_TOKENS_ON_CPU = 4096

MOST_TOKENS = 8192
"""More gains little anywhere, and a unit has too few batches of that many for little padding."""

WORKED_ON = 8
"""Tensors as wide as the widest that a layer holds at once: a gated MLP has four, the queries,
keys and values of an attention and the residual stream are the rest."""

SHARE = 8
FLOOR_BYTES = 1 << 30


def token_budget(model: TextModel, layers: Sequence[LayerArray], *, runs_whole: bool) -> int:
    """Return how many tokens run at once, a power of two.

    `layers` are what is kept of each token; `runs_whole` says that forwards do not end before the
    logits.
    """
    module, device = model.layers.index.module, model.context.device
    kept = sum(each.features * torch_dtype(each.dtype).itemsize for each in layers)
    itemsize = model.context.dtype.itemsize
    token = 2 * kept + WORKED_ON * _widest(module, runs_whole=runs_whole) * itemsize
    parameters = sum(each.numel() * each.element_size() for each in module.parameters())
    room = max(FLOOR_BYTES, _memory(device, parameters) // SHARE)
    most = MOST_TOKENS
    if device.type == "cpu":
        most = min(MOST_TOKENS_ON_CPU, TOKENS_PER_THREAD * torch.get_num_threads())
    return max(LEAST_TOKENS, 1 << (min(most, room // token).bit_length() - 1))


def _memory(device: torch.device, parameters: int) -> int:
    """Return the bytes of which batches may have a share."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) - parameters
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - parameters
    return parameters


def _widest(module: nn.Module, *, runs_whole: bool) -> int:
    """Return the widest that a token gets inside the model, its logits only where they are made."""
    tables = [each for each in module.modules() if isinstance(each, nn.Embedding)]
    words = max((each.num_embeddings for each in tables), default=0)
    left_out = set() if runs_whole else {words}
    widths = {1}
    for each in module.modules():
        if isinstance(each, nn.Linear):  # quantised ones too, whose weights have other shapes
            widths |= {each.in_features, each.out_features}
        elif not isinstance(each, nn.Embedding):
            for weight in each.parameters(recurse=False):
                if weight.is_floating_point() and weight.ndim > 1:
                    widths |= {*weight.shape[-2:]}
    return max(widths - left_out, default=1)
