"""Crosscoders: latents that several layers share, with an encoder and a decoder for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tenterhook import HookContext
from tenterhook_sae.errors import BadSetting, WrongWidth
from tenterhook_sae.limits import WIDEST, whole
from tenterhook_sae.other_layers import OtherLayers
from tenterhook_sae.sae import Mode
from tenterhook_sae.topk_or_l1 import TopKOrL1


class Crosscoder(TopKOrL1):
    """Reads several layers of one width: latents that they share, and a decoder for each.

    Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing",
    transformer-circuits.pub/2024/crosscoders. For the activations `a_l` of the layers `l`,

        z = ReLU(sum_l a_l @ W_enc_l + b_enc),    a'_l = z @ W_dec_l + b_dec_l

    and training minimises `sum_l |a_l - a'_l|^2` and `sparsity * sum_i z_i * sum_l |W_dec_l[i]|`:
    the lengths of a latent's decoder rows are summed, not their squares, so that a latent of few
    layers is cheap. With `k`, the `k` largest latents of each token are kept where they are
    positive, and there is no penalty, as in `TopKSae`. Nothing is taken off: `center` is False.

    The weights of the layers stand side by side, in the order of `layers`: `W_enc` is
    `(len(layers) * layer_width, n_latents)`, and `encoders` and `decoders` are those of each layer.
    A row to train on is all layers side by side, each scaled to the same size.

    As a hook it stands at the last of its layers to run, and reads the others in the same forward.
    What these gave has been used by then, so `"edit"` and `"reconstruct"` change the last alone.
    """

    architecture = "crosscoder"

    def __init__(
        self,
        n_latents: int,
        layer_width: int,
        layers: Sequence[str],
        k: int | None = None,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        dtype: torch.dtype = torch.float32,
        mode: Mode = "edit",
    ) -> None:
        """`layers` are names, the last of them that of its own; `NAME:input` is what one is given.

        Raises `BadSetting` (a `ValueError`) for sizes that are not whole and positive,
        `k > n_latents`, and layers that are not two or more names, each once.
        """
        names = _names(layers)
        width = whole("layer_width", layer_width, most=WIDEST // len(names))
        super().__init__(
            *(n_latents, width * len(names), hook_id, device, store),
            dtype=dtype,
            center=False,
            mode=mode,
        )
        self.layer_width, self.layers = width, names
        self._keep(k)
        self._others = OtherLayers(self.layers[:-1])
        self._written = slice(-width, None)

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has; see `model.scoped`."""
        inputs = parameters["layer_width"] * len(parameters["layers"])
        return super().elements({**parameters, "n_inputs": inputs})

    @classmethod
    def width(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many features each of its layers must have."""
        found: int = parameters["layer_width"]
        return found

    @property
    def parts(self) -> tuple[int, ...]:
        """The widths of the layers, side by side in a row to train on."""
        return (self.layer_width,) * len(self.layers)

    @property
    def encoders(self) -> dict[str, Tensor]:
        """The part of `W_enc` that is each layer's, `(layer_width, n_latents)`; views."""
        return dict(zip(self.layers, self.W_enc.split(self.layer_width), strict=True))  # type: ignore[no-untyped-call]

    @property
    def decoders(self) -> dict[str, Tensor]:
        """The part of `W_dec` that is each layer's, `(n_latents, layer_width)`; views."""
        return dict(zip(self.layers, self.W_dec.split(self.layer_width, 1), strict=True))  # type: ignore[no-untyped-call]

    def layers_read(self, layer: str) -> list[str]:
        """Return its layers."""
        return [*self.layers]

    def decoder_lengths(self) -> Tensor:
        """Return the lengths of each latent's decoder rows, summed over layers, `(n_latents,)`."""
        rows = self.W_dec.reshape(self.n_latents, len(self.layers), self.layer_width)
        lengths: Tensor = rows.norm(dim=2).sum(1)
        return lengths

    @torch.no_grad()
    def rescale_parts(self, factors: Sequence[float]) -> None:
        """See `Sae.rescale_parts`; the latents stay."""
        scale = torch.cat([self.b_dec.new_full((self.layer_width,), each) for each in factors])
        self.W_enc.div_(scale[:, None])
        self.W_dec.mul_(scale)
        self.b_dec.mul_(scale)

    def settings(self) -> dict[str, Any]:
        """Return the width of a layer, the layers, and `k` where it has one."""
        found: dict[str, Any] = {"layer_width": self.layer_width, "layers": [*self.layers]}
        return found if self.k is None else {**found, "k": self.k}

    def set_context(self, context: HookContext | None) -> None:
        """Set the context of the model it is attached to; registration does.

        Raises `UnknownLayer` where the model has not all of the layers.
        """
        self._others.follow(context)
        super().set_context(context)

    def _read(self, given: Tensor | None, y: Tensor) -> Tensor | None:
        found = self._others.found(self.layer_signature)
        names = (*self.layers[:-1], self.layer_signature or self.layers[-1])
        for name, each in zip(names, (*found, y), strict=True):
            if each.ndim == 0 or each.shape[-1] != self.layer_width:
                raise WrongWidth(self.layer_width, each.shape[-1] if each.ndim else 0, name)
        return torch.cat([each.to(self.device, self.dtype) for each in (*found, y)], -1)


def _names(layers: Any) -> tuple[str, ...]:
    valid = "the names of two layers or more, each once"
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise BadSetting("layers", layers, valid)
    if not all(isinstance(each, str) and each for each in layers):
        raise BadSetting("layers", list(layers), valid)
    if len(layers) < 2 or len({*layers}) < len(layers):
        raise BadSetting("layers", list(layers), valid)
    return tuple(layers)
