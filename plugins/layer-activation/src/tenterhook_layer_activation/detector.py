"""Keeps what a layer returned, in memory of its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, is_inference_mode_enabled, nn
from torch.compiler import is_dynamo_compiling

from tenterhook.activations import activation_of, first_input, shape_of
from tenterhook.hooks import Detector, HookType


class LayerActivationDetector(Detector):
    """Keeps the latest call's activation, detached and on the CPU.

    It is in `tensor_metadata["activations"]` and its shape in `metadata["activations_shape"]`.
    The tensor is a finished copy, which no later forward changes.
    """

    reads_only = True

    def __init__(
        self,
        layer_signature: str | int,
        hook_id: str | None = None,
        target_dtype: torch.dtype | None = None,
    ) -> None:
        """`target_dtype` is what the copy is cast to; the layer's own dtype by default.

        Raises `ValueError` where `layer_signature` is `None`.
        """
        if layer_signature is None:
            raise ValueError(
                "layer_signature=None: a LayerActivationDetector needs a layer, for example "
                "'transformer.h.0' or 'layer_0'."
            )
        super().__init__(HookType.FORWARD, hook_id, layer_signature=layer_signature)
        self.target_dtype = target_dtype

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return 0: it is made without tensors, and keeps one activation of the layer's."""
        return 0

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep the activation of `output`; of an output without a tensor, keep nothing."""
        if output is None:  # registered to run before the module, it keeps what that is given
            tensor = first_input(input) if self.hook_type is HookType.PRE_FORWARD else None
        else:
            tensor = output if type(output) is Tensor else activation_of(output)
        if tensor is None:
            self.clear_captured()
            return
        dtype = self.target_dtype
        if dtype is None and tensor.is_cpu:
            copy = tensor.detach().clone()
        else:
            device = "meta" if tensor.is_meta else "cpu"  # what has no numbers stays without
            copy = tensor.detach().to(device, dtype or tensor.dtype, copy=True)
        if not is_grad_enabled() and not is_dynamo_compiling() and is_inference_mode_enabled():
            with torch.inference_mode(False):  # the user's own: fit for autograd, like any other
                copy = copy.clone()
        self.tensor_metadata["activations"] = copy
        try:  # not `shape_of` alone: a call more, or a look, is a hundredth of a hooked call each
            shape = tuple(copy.shape) if type(copy) is Tensor else shape_of(copy)
        except RuntimeError:  # of nested tensors that are strided
            shape = shape_of(copy)
        self.metadata["activations_shape"] = shape

    def get_captured(self) -> Tensor | None:
        """Return the latest activation, on the CPU; `None` if there is none.

        Of the shape that the layer gave, `(batch, seq, d_model)` mostly; detached, in memory of
        its own, in the dtype that the layer gave or the one asked for.
        """
        return self.tensor_metadata.get("activations")

    def clear_captured(self) -> None:
        """Forget the latest activation."""
        self.tensor_metadata.pop("activations", None)
        self.metadata.pop("activations_shape", None)
