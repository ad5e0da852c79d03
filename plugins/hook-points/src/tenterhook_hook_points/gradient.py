"""The gradient at a hook point: on the tensor that the point returned, hooks in order."""

from typing import Any

import torch
from torch import Tensor


class ScaledGradient(Tensor):
    """A gradient whose `sum` is multiplied by the point's `backward_scale`; else a plain tensor.

    What is computed of it are plain tensors.
    """

    scale: float

    @classmethod
    def of(cls, grad: Tensor, scale: float) -> "ScaledGradient":
        """Return a view of the gradient, of any shape, whose `sum` is `scale` times as much."""
        scaled = grad.as_subclass(cls)
        scaled.scale = scale
        return scaled

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func is Tensor.sum or func is torch.sum:
            summed = args[0] if args else kwargs["input"]
            return result * summed.scale
        return result


def plain(grad: Tensor) -> Tensor:
    """Return the gradient without the scale of its sum: a view, of the same shape."""
    return grad.as_subclass(Tensor) if isinstance(grad, ScaledGradient) else grad
