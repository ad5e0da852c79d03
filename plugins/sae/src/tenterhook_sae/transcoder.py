"""Transcoders: sparse latents that compute what a layer, as an MLP, computes from its input."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook import HookContext
from tenterhook.hooks import HookType
from tenterhook_sae.errors import BadSetting, WrongWidth
from tenterhook_sae.other_layers import INPUT, OtherLayers
from tenterhook_sae.sae import Mode
from tenterhook_sae.sparse_latents import SparseLatents
from tenterhook_sae.topk_or_l1 import TopKOrL1


class Transcoder(TopKOrL1):
    """Takes the place of an MLP: encodes what goes in, and decodes what comes out.

    Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", arXiv:2406.11944:

        z = ReLU(x @ W_enc + b_enc),    y' = z @ W_dec + b_dec

    for the input `x` of a layer and its output `y`; training minimises `|y - y'|^2` and
    `sparsity * |z|_1`, where each latent weighs as much as its decoder row is long. With `k`, the
    `k` largest latents of each token are kept where they are positive, and there is no penalty, as
    in `TopKSae`. Nothing is taken off the input: `center` is False.

    As a hook it stands at the layer whose place it takes, and encodes its input, or what the layer
    `reads` gives. `"reconstruct"` puts `y'` in the place of what the layer returned; `"edit"` adds
    what manipulations change of `y'`, so that what the transcoder misses of the layer stays.
    """

    architecture = "transcoder"

    def __init__(
        self,
        n_latents: int,
        n_inputs: int,
        n_outputs: int | None = None,
        k: int | None = None,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        reads: str | None = None,
        dtype: torch.dtype = torch.float32,
        mode: Mode = "edit",
    ) -> None:
        """`n_outputs` is `n_inputs` unless given.

        `reads` is the layer that it encodes, as `transformer.h.1.ln_2`, where that is not the
        input of its own; `NAME:input` is what that layer is given.

        Raises `BadSetting` (a `ValueError`) for sizes that are not whole and positive, and
        `k > n_latents`.
        """
        outputs = n_inputs if n_outputs is None else n_outputs
        super().__init__(
            *(n_latents, n_inputs, hook_id, device, store),
            dtype=dtype,
            center=False,
            mode=mode,
            n_outputs=outputs,
        )
        self._keep(k)
        named: Any = reads
        if named is not None and not (isinstance(named, str) and named):
            raise BadSetting("reads", reads, "the name of a layer, or None for its own input")
        self.reads = reads
        self._others = OtherLayers(() if reads is None else (reads,))

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has; see `model.scoped`."""
        latents, inputs = parameters["n_latents"], parameters["n_inputs"]
        outputs = cls._outputs(parameters)
        weights: int = latents * (inputs + outputs) + latents + outputs
        return weights

    @classmethod
    def width(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many features its layer must return."""
        return cls._outputs(parameters)

    @staticmethod
    def _outputs(parameters: Mapping[str, Any]) -> int:
        found: int | None = parameters.get("n_outputs")
        inputs: int = parameters["n_inputs"]
        return inputs if found is None else found

    @property
    def parts(self) -> tuple[int, ...]:
        """The widths of the input and the output, side by side in a row to train on."""
        return self.n_inputs, self.n_outputs

    def layers_read(self, layer: str) -> list[str]:
        """Return what it encodes, and the layer whose place it takes."""
        return [f"{layer}{INPUT}" if self.reads is None else self.reads, layer]

    @torch.no_grad()
    def rescale_parts(self, factors: Sequence[float]) -> None:
        """See `Sae.rescale_parts`; latents and output grow by the factor of the output."""
        given, returned = factors
        self.rescale(returned)
        self.W_enc.mul_(returned / given)

    def new_encoder_rows(self, x: Tensor, error: Tensor) -> Tensor:
        """Return the rows themselves: what is missed of the output is no direction of the input."""
        return x

    def settings(self) -> dict[str, Any]:
        """Return the width of the output, `k` and the layer it reads, where it has them."""
        found = {"n_outputs": self.n_outputs, "k": self.k, "reads": self.reads}
        return {name: value for name, value in found.items() if value is not None}

    def set_context(self, context: HookContext | None) -> None:
        """Set the context of the model it is attached to; registration does.

        Raises `BadSetting` for a side of the layer where it could take nothing's place.
        """
        if context is not None and self.hook_type is not HookType.FORWARD:
            valid = "HookType.FORWARD: it takes the place of what its layer returns"
            raise BadSetting("hook_type", self.hook_type, valid)
        self._others.follow(context)
        super().set_context(context)

    def _read(self, given: Tensor | None, y: Tensor) -> Tensor | None:
        if y.ndim == 0 or y.shape[-1] != self.n_outputs:
            width = y.shape[-1] if y.ndim else 0
            raise WrongWidth(self.n_outputs, width, self.layer_signature, outputs=True)
        if self.reads is None:
            return given
        (found,) = self._others.found(self.layer_signature)
        return found


class SkipTranscoder(Transcoder):
    """A transcoder with a linear way past its latents.

    Paulo et al. 2025, "Transcoders Beat Sparse Autoencoders for Interpretability",
    arXiv:2501.18823:

        y' = z @ W_dec + x @ W_skip.T + b_dec

    `W_skip`, `(n_outputs, n_inputs)`, begins at 0. The latents are those of a `Transcoder`; the
    paper keeps the `k` largest.
    """

    architecture = "skip_transcoder"
    W_skip: nn.Parameter

    def __init__(
        self,
        n_latents: int,
        n_inputs: int,
        n_outputs: int | None = None,
        k: int | None = None,
        hook_id: str | None = None,
        device: torch.device | str = "cpu",
        store: Any = None,
        *,
        reads: str | None = None,
        dtype: torch.dtype = torch.float32,
        mode: Mode = "edit",
    ) -> None:
        """See `Transcoder`."""
        super().__init__(
            *(n_latents, n_inputs, n_outputs, k, hook_id, device, store),
            reads=reads,
            dtype=dtype,
            mode=mode,
        )
        self.W_skip = nn.Parameter(
            torch.zeros(self.n_outputs, self.n_inputs, device=device, dtype=dtype)
        )

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many weights one of these sizes has, the way past the latents among them."""
        inputs: int = parameters["n_inputs"]
        return super().elements(parameters) + inputs * cls._outputs(parameters)

    def reconstruct(self, x: Tensor, latents: Tensor | SparseLatents) -> Tensor:
        """Return the output `(..., n_outputs)` for the input `x`, `(..., n_inputs)`."""
        return self.decode(latents) + x.to(self.device, self.dtype) @ self.W_skip.T

    @torch.no_grad()
    def rescale_parts(self, factors: Sequence[float]) -> None:
        """See `Transcoder.rescale_parts`."""
        super().rescale_parts(factors)
        self.W_skip.mul_(factors[1] / factors[0])
