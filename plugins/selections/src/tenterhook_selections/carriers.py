"""Which layers carry the text: those whose activation has a row of features for each token.

A layer sees a tensor. That its first axes are as long as the batch and the tokens may be chance: an
image has as many patches, a batch as many rows as tokens. So a selection of tokens asks what the
layer is and what the forward was given, and refuses what cannot be told.
"""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tenterhook.activations import parameters_of
from tenterhook_selections.forwards import Forward, storage_of, takes_text
from tenterhook_selections.turning import may_turn

OTHER_INPUTS = (
    "pixel_values",
    "pixel_values_videos",
    "pixel_values_images",
    "input_features",
    "input_values",
    "image",
    "images",
    "audio",
    "video",
    "pixels",
)
"""What modules that are given images or sound call them."""

_CARRIED = (
    "cache_params",
    "encoder_hidden_states",
    "encoder_outputs",
    "h",
    "h0",
    "hidden",
    "hidden_state",
    "hidden_states",
    "hx",
    "inputs_embeds",
    "labels",
    "mems",
    "past_buckets_states",
    "past_key_values",
    "state",
    "states",
)
"""Inputs of a forward that are of the text, though they may be tensors of three axes."""

_CHANNELS_FIRST: tuple[type, ...] = (
    _ConvNd,
    _BatchNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)


@attrs.define
class _Layer:
    """What is known of a layer, whatever it is called with."""

    kind: str | None
    """Why layers of its kind carry no tokens on their second axis, if so."""

    tower: str | None
    """Why one at its place carries no text, if so."""

    is_batch_first: bool = False
    """Whether it is known to have the batch before the tokens."""


class Carriers:
    """Which layers of one model carry its text: worked out once, for all scopes on it."""

    def __init__(self, root: nn.Module) -> None:
        # All weakly: what a model is remembered by must not keep it.
        self._root = weakref.ref(root)
        self._layers: weakref.WeakKeyDictionary[nn.Module, _Layer]
        self._layers = weakref.WeakKeyDictionary()
        self._above: weakref.WeakKeyDictionary[nn.Module, list[weakref.ref[nn.Module]]]
        self._above = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, root: nn.Module) -> "Carriers":
        """Return those of a model."""
        found = _of_roots.get(root)
        if found is None:
            found = _of_roots[root] = cls(root)
        return found

    def why_not(
        self,
        layer: nn.Module,
        forward: Forward | None,
        given: Tensor | None,
        shape: Sequence[int] = (),
    ) -> str | None:
        """Return why tokens cannot be selected at a layer, `None` where they can.

        `given` is the layer's first input, `shape` its activation's.
        """
        known = self._layers.get(layer)
        if known is None:
            known = self._layers[layer] = _Layer(self._by_kind(layer), self._by_tower(layer))
        if known.kind is not None or forward is None or forward.shape is None:
            return known.kind
        why = known.tower or self._by_inputs(layer, forward, given)
        if why is None and not known.is_batch_first and shape[:2] == forward.shape:
            why = self._by_size(layer, forward, given, known)
        return why

    def _by_size(
        self, layer: nn.Module, forward: Forward, given: Tensor | None, known: "_Layer"
    ) -> str | None:
        """Return why it cannot be told whether the batch or the tokens come first.

        Where they are as many, an activation `(tokens, batch, features)` looks like one that has
        the batch first. What another forward has shown is remembered.
        """
        assert forward.shape is not None
        batch, seq = forward.shape
        known.is_batch_first = batch != seq or self._is_known(layer, forward)
        if batch == 1 or known.is_batch_first:
            return None
        ids = forward.named.get("input_ids")
        if isinstance(layer, nn.Embedding) and given is not None and _is_same(given, ids):
            return None
        return (
            f"the batch has as many rows as tokens, {batch}, and the code of "
            f"{type(forward.module).__name__} turns axes round, so it cannot be told which of them "
            f"this {type(layer).__name__} has first. Say it on a module, as torch's own do "
            "(module.batch_first = True), or run the model once on a batch of another size, in "
            "such a scope: what that shows is remembered"
        )

    def _is_known(self, layer: nn.Module, forward: Forward) -> bool:
        """Whether a layer says that the batch comes first, or its model turns no axes round.

        Models of transformers keep the batch first, whatever they turn inside.
        """
        said = (getattr(each, "batch_first", None) for each in (layer, *self._modules_above(layer)))
        first = next((each for each in said if isinstance(each, bool)), None)
        if first is None:
            top = type(forward.module).__module__.partition(".")[0]
            first = top == "transformers" or not may_turn(forward.module)
        return first

    def _by_kind(self, layer: nn.Module) -> str | None:
        """Return why a layer of this kind has no tokens on its second axis."""
        if isinstance(layer, _CHANNELS_FIRST):
            return f"a {type(layer).__name__} has its channels before the places, and no tokens"
        for module in (layer, *self._modules_above(layer)):
            blocks = getattr(module, "layers", None)  # a TransformerEncoder, itself or around it
            first = blocks[0] if isinstance(blocks, nn.ModuleList) and len(blocks) else module
            first = first if isinstance(module, _STACKS) else module
            inner = getattr(first, "self_attn", None)
            if any(getattr(each, "batch_first", None) is False for each in (first, inner)):
                name = type(module).__name__
                return f"a {name} with batch_first=False has the sequence before the batch"
        return None

    def _by_tower(self, layer: nn.Module) -> str | None:
        """Return why a layer at this place in the model carries no text."""
        root = self._root()
        for module in (layer, *self._modules_above(layer)):
            if module is root or takes_text(module):
                break
            kind: Any = type(module)
            other = [name for name in OTHER_INPUTS if name in parameters_of(kind)]
            if other:
                return f"the layer is part of a {kind.__name__}, which is given {other[0]}"
        return None

    def _by_inputs(self, layer: nn.Module, forward: Forward, given: Tensor | None) -> str | None:
        """Return why it cannot be told whether a layer of this forward carries the text."""
        named = forward.named
        if forward.is_plain:
            return None
        encoders = named.get("encoder_hidden_states")
        if encoders is not None and given is not None and _shares(given, encoders):
            return (
                "the layer is given the encoder's, whose padding a decoder does not know. Select "
                "them in the encoder: tenterhook.attach(encoder)"
            )
        other = forward.masks.get("other inputs")
        if other is None:
            other = forward.masks["other inputs"] = [
                name for name, value in named.items() if _is_other(name, value)
            ]
        forward.is_plain = not other and encoders is None
        if not other or layer is forward.module:
            return None
        ids = named.get("input_ids")
        if ids is not None and given is not None and _shares(given, ids):
            return None
        heads = getattr(forward.module, "get_output_embeddings", None)
        if callable(heads) and heads() is layer:
            return None
        return (
            f"the {type(forward.module).__name__} was given {other[0]}, too, and it cannot be told "
            "whose tokens the layer has. Attach to the part that has the text"
        )

    def _modules_above(self, layer: nn.Module) -> list[nn.Module]:
        """Return the modules that a layer is part of, from the innermost out."""
        if layer not in self._above:
            root = self._root()
            named = dict(root.named_modules(remove_duplicate=False)) if root is not None else {}
            for name, module in named.items():
                parts = name.split(".") if name else []
                paths = [".".join(parts[:end]) for end in range(len(parts) - 1, -1, -1)]
                above = [named[path] for path in paths if path in named]
                self._above[module] = list(map(weakref.ref, above)) if name else []
        found = (each() for each in self._above.get(layer, ()))
        return [module for module in found if module is not None]


_of_roots: "weakref.WeakKeyDictionary[nn.Module, Carriers]" = weakref.WeakKeyDictionary()
_STACKS = (nn.TransformerEncoder, nn.TransformerDecoder)


def _is_same(one: Tensor, other: Any) -> bool:
    """Whether one is the other, not transposed."""
    return _shares(one, other) and one.shape == other.shape and one.stride() == other.stride()


def _shares(one: Tensor, other: Any) -> bool:
    found = storage_of(other)
    return one is other or (found is not None and storage_of(one) == found)


def _is_other(name: str, value: Any) -> bool:
    """Whether an input is another modality: not the text, its mask, cache or state."""
    if name in _CARRIED or any(part in name for part in ("mask", "attention", "position")):
        return False
    if isinstance(value, list | tuple):
        return any(_is_other(name, each) for each in value)
    if isinstance(value, Mapping):
        return any(_is_other(name, each) for each in value.values())
    if name in OTHER_INPUTS:
        return isinstance(value, Tensor)
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 3:
        return False
    return value.is_meta or bool(torch.any(value != 0))
