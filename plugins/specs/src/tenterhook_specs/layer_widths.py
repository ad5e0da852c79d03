"""How many features a layer takes or returns, as far as its modules say so.

A vector of another width would fail in the middle of a forward, where other requests may share the
batch. What is not known is not guessed: a layer without weights, or one whose last axis is no axis
of features (convolutions and their norms), takes any width.
"""

from collections.abc import Collection
from typing import Literal

from torch import nn
from torch.nn.parameter import UninitializedParameter

Side = Literal["input", "output"]

_NAMES = {"input": "in_features", "output": "out_features"}
"""As `nn.Linear` has them, and what stands in for it, sharded or in few bits."""

_OTHER_AXES = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.RNNBase,
)
"""Modules whose activations do not end in an axis that their weights have."""


def possible_widths(layer: nn.Module, side: Side) -> Collection[int] | None:
    """Return the sizes that the last axis of a layer's input or output may have; `None` for any.

    One size where the layer is a module that says it. Of a layer made of several, all sizes that
    the weights inside it have: a block of 768 features has no weight of 1,024.
    """
    width = _stated_width(layer, side)
    if width is not None:
        return (width,)
    found: set[int] = set()
    for module in layer.modules():
        if isinstance(module, _OTHER_AXES):
            return None
        for each in ("input", "output"):
            stated = _stated_width(module, each)
            found |= set() if stated is None else {stated}
        for weight in module.parameters(recurse=False):
            if isinstance(weight, UninitializedParameter):
                return None
            found |= set(weight.shape)
    return found or None


def _stated_width(module: nn.Module, side: str) -> int | None:
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.Embedding):
        return module.embedding_dim if side == "output" else None
    width = getattr(module, _NAMES[side], None)
    return width if type(width) is int and width > 0 else None
