"""Conversions: what a hook sees in place of the tensor at its point, and the way back."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class TensorConversion(Protocol):
    """What `HookPoint.enable_reshape` takes: anything with these two methods."""

    def convert(self, tensor: Tensor) -> Tensor:
        """Return what hooks are to see of the tensor at the point, in any shape and dtype.

        A new tensor or a view; the tensor itself is not to be written to.
        """

    def revert(self, tensor: Tensor) -> Tensor:
        """Return what replaces the tensor at the point, made of what a hook returned.

        That has the shape that `convert` gave, unless the hook changed it.
        """


class BaseTensorConversion(ABC):
    """A conversion with a way back that is left to the subclass where there is something to do."""

    @abstractmethod
    def convert(self, tensor: Tensor) -> Tensor:
        """Return what hooks are to see of the tensor at the point, in any shape and dtype."""

    def revert(self, tensor: Tensor) -> Tensor:
        """Return what replaces the tensor at the point; here, what the hook returned, as it is."""
        return tensor
