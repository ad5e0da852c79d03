"""Which layers carry the text: those whose activation has a row of features for each token.

A layer sees a tensor. That its first axes are as long as the batch and the tokens may be chance: an
image has as many patches, a batch as many rows as tokens. So a selection of tokens asks what the
layer is and what the forward was given, and refuses what cannot be told.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tenterhook.activations import parameters_of
from tenterhook_selections.forwards import Forward, storage_of, takes_text
from tenterhook_selections.trials import Flags, Form, Of, flags_of, try_out

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

    sequence_first: str | None = None
    """Why its first axis is not the batch, if that is known of its kind."""

    shown: dict[tuple[Of, Flags], bool] = attrs.field(factory=dict)
    """Whether its activations have a form, where a run has shown it."""

    plain: set[tuple[bool, tuple[int, ...], tuple[int, int]]] = attrs.field(factory=set)
    """Sizes that tell the axes: whether of what it was given, the activation's, the text's."""


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
        tensor: Tensor | None = None,
    ) -> str | None:
        """Return why tokens cannot be selected at a layer, `None` where they can.

        `given` is the layer's first input, `tensor` the activation of which they are selected.
        """
        known = self._layers.get(layer) or self._layer(layer)
        if forward is not None and tensor is not None and forward.is_plain:
            sizes = tensor is given, tensor.shape, forward.shape
            if sizes in known.plain:  # nearly always; every layer of every forward asks
                return None
        if known.kind is not None or forward is None or forward.shape is None:
            return known.kind
        why = known.tower or self._by_inputs(layer, forward, given)
        if why is None and tensor is not None and forward.masks.get("flat inputs"):
            why = self._by_trial(layer, forward, given, tensor)
        if why is None and tensor is not None:
            why = self._by_size(layer, forward, given, tensor)
        return why

    def _by_size(
        self,
        layer: nn.Module,
        forward: Forward,
        given: Tensor | None,
        tensor: Tensor,
    ) -> str | None:
        """Return why it cannot be told which axes have the batch and the tokens.

        Where sizes tell, what they do is remembered. Where two are the same, it is what was
        remembered, or what the module says of itself, or what a trial shows.
        """
        assert forward.shape is not None
        batch, seq = forward.shape
        axes = tuple(tensor.shape[:3])
        form: Form = "tokens second"
        alike = None
        if len(axes) == 2 and axes[0] == batch * seq:
            form = "joined"
            alike = "the activation has rows and tokens in one axis" if batch * seq > 1 else None
        elif axes[:2] != (batch, seq):
            if axes[:2] == (seq, batch):
                self._show(layer, forward, tensor is given, "tokens second", False)
            return None  # refused by its shape
        elif batch == seq > 1:
            alike = f"the batch has as many rows as tokens, {batch}"
        elif seq > 1 and axes[2:] == (seq,) and tensor.ndim == 3:
            alike = f"the activation has as many features as tokens, {seq}"
        if alike is None:
            if form == "tokens second":
                self._show(layer, forward, tensor is given, form, True)
                plain = self._layer(layer).plain
                if len(plain) == _MOST:
                    plain.clear()
                plain.add((tensor is given, tensor.shape, (batch, seq)))
            return None
        shown, why = self._find_out(layer, forward, given, tensor, form)
        if shown is not True and seq == 1:
            shown, why = self._find_out(layer, forward, given, tensor, "rows first")
        if shown:
            return None
        name = type(layer).__name__
        if shown is False:
            return (
                f"{alike}, and this {name} does not have the rows first and then their tokens. "
                "Capture it whole, without a selection, or select at a layer that has"
            )
        another = (
            ""
            if form == "joined"
            else ", or run the model once on a batch of another size, in such a scope: what that "
            "shows is remembered"
        )
        return (
            f"{alike}, and it is not known which axes of this {name} are which: {why}. Say on a "
            f"module that the batch comes first (module.batch_first = True){another}"
        )

    def why_no_rows(
        self, layer: nn.Module, forward: Forward, given: Tensor | None, tensor: Tensor
    ) -> str | None:
        """Return why the rows of the batch cannot be selected at a layer, `None` where they can.

        They need no text, only a first axis that is the batch. What is known not to have it is
        refused; what nothing is known of is taken to have it.
        """
        if forward.shape is None:
            return None
        batch, seq = forward.shape
        first = tensor.shape[0] if tensor.ndim else 1
        why = self._layer(layer).sequence_first
        if why is not None or first == 1:
            return why
        form: Form = (
            "joined" if tensor.ndim == 2 and first == batch * seq != batch else "rows first"
        )
        if form == "rows first" and first != batch:
            return (
                f"the first axis of the activation of shape {tuple(tensor.shape)} is not the "
                f"batch's, which has {batch} rows"
            )
        if form == "rows first" and (batch != seq or tensor.ndim < 3):
            return None
        if self._find_out(layer, forward, given, tensor, form)[0] is False:
            name = type(layer).__name__
            return f"this {name} does not have the batch first. Capture it whole, without rows="
        return None

    def _find_out(
        self, layer: nn.Module, forward: Forward, given: Tensor | None, tensor: Tensor, form: Any
    ) -> tuple[bool | None, str]:
        """Return whether an activation has a form, and why where it is not known."""
        of: Of = tensor is given, form
        shown = self._layer(layer).shown
        flags = _flags(forward)
        if (of, flags) in shown:
            return shown[of, flags], ""
        if isinstance(layer, nn.Embedding) and _is_same(given, forward.named.get("input_ids")):
            return True, ""
        said = [
            (first, type(each).__module__.partition(".")[0] == "torch")
            for each in (layer, *self._modules_above(layer))
            if isinstance(first := getattr(each, "batch_first", None), bool)
        ]
        if said and not said[0][1]:  # a module of the user's own, who knows
            return said[0][0], ""
        trial = try_out(forward.module, forward.named, tensor.shape)
        for other, found in trial.shown.items():
            for each, answer in found.items():
                self._layer(other).shown.setdefault((each, flags), answer)
        if (of, flags) in shown:
            return shown[of, flags], ""
        if said and said[0][0]:  # a torch module, given what it asks for
            return True, ""
        return None, trial.failed or "a trial on two short rows did not show it"

    def _show(
        self, layer: nn.Module, forward: Forward, is_given: bool, form: Form, answer: bool
    ) -> None:
        """Remember what a forward shows of a layer; what once was otherwise is not relied on."""
        shown, key = self._layer(layer).shown, ((is_given, form), _flags(forward))
        if shown.get(key, True):
            if len(shown) == _MOST:  # flags that are others in each forward
                shown.clear()
            shown[key] = answer

    def _layer(self, layer: nn.Module) -> _Layer:
        known = self._layers.get(layer)
        if known is None:
            known = _Layer(self._by_kind(layer), self._by_tower(layer))
            known.sequence_first = self._is_sequence_first(layer)
            self._layers[layer] = known
        return known

    def _by_kind(self, layer: nn.Module) -> str | None:
        """Return why a layer of this kind has no tokens on its second axis."""
        if isinstance(layer, _CHANNELS_FIRST):
            return f"a {type(layer).__name__} has its channels before the places, and no tokens"
        return self._is_sequence_first(layer)

    def _is_sequence_first(self, layer: nn.Module) -> str | None:
        """Return why the first axis of a layer of this kind is not the batch."""
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
        flat = forward.masks.get("flat inputs")
        if flat is None:
            flat = forward.masks["flat inputs"] = [
                name for name, value in named.items() if _is_flat(name, value, forward.shape)
            ]
        forward.is_plain = not other and not flat and encoders is None
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

    def _by_trial(
        self, layer: nn.Module, forward: Forward, given: Tensor | None, tensor: Tensor
    ) -> str | None:
        """Return why a layer has no tokens of the text: of a longer text it would have as many.

        For models that are given numbers beside the text, as a vector for each row, or sound.
        """
        if given is not None and _shares(given, forward.named.get("input_ids")):
            return None
        form: Form = "joined" if tensor.ndim == 2 else "tokens second"
        shown, why = self._find_out(layer, forward, given, tensor, form)
        if shown:
            return None
        what = forward.masks["flat inputs"][0]
        return (
            f"the {type(forward.module).__name__} was given {what}, too, and the layer was not "
            f"shown to have the text{': ' + why if why else ''}. Attach to the part that has it"
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


def logits_kept(layer: nn.Module, forward: Forward) -> int:
    """Return of how many of its last tokens a forward makes logits, at the layer that gives them.

    0 where that is of all: while it generates, a model is asked for some, `logits_to_keep`.
    """
    keep = forward.named.get("logits_to_keep")
    if type(keep) is not int or keep < 1 or forward.shape is None or keep >= forward.shape[1]:
        return 0
    heads = getattr(forward.module, "get_output_embeddings", None)
    gives = layer is forward.module or (callable(heads) and heads() is layer)
    return keep if gives else 0


def first_of_logits(layer: nn.Module, forward: Forward, shape: torch.Size) -> int:
    """Return with which column of a forward an activation begins: not 0 where it is of logits."""
    keep = logits_kept(layer, forward)
    if not keep or forward.shape is None or len(shape) != 3:
        return 0
    batch, seq = forward.shape
    return seq - keep if tuple(shape[:2]) == (batch, keep) else 0


_of_roots: "weakref.WeakKeyDictionary[nn.Module, Carriers]" = weakref.WeakKeyDictionary()
_MOST = 64
_STACKS = (nn.TransformerEncoder, nn.TransformerDecoder)


def _flags(forward: Forward) -> Flags:
    found: Flags | None = forward.masks.get("flags")
    if found is None:
        found = forward.masks["flags"] = flags_of(forward.named)
    return found


def _is_same(one: Tensor | None, other: Any) -> bool:
    """Whether one is the other, not transposed."""
    if one is None or not _shares(one, other):
        return False
    return bool(one.shape == other.shape and one.stride() == other.stride())


def _shares(one: Tensor, other: Any) -> bool:
    found = storage_of(other)
    return one is other or (found is not None and storage_of(one) == found)


def _is_flat(name: str, value: Any, shape: tuple[int, int] | None) -> bool:
    """Whether an input has numbers for each row, and not one for each token of the text."""
    if name in _CARRIED or any(part in name for part in ("mask", "attention", "position")):
        return False
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 2:
        return False
    return shape is not None and value.shape[1] > 1 and tuple(value.shape) != shape


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
