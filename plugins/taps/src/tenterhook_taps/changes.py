"""What a tap does to an activation: one factor and one vector, for all rows or for each."""

from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_taps.errors import RowsMismatch, WidthMismatch
from tenterhook_taps.operator import MOST_KEPT, neutral


@attrs.frozen(eq=False)
class Setting:
    """`activation * factor + coefficient * vector`. Tensors are the setting's own."""

    factor: Tensor | None = None
    """`()` or `(rows,)`."""

    coefficient: Tensor | None = None
    """`()` or `(rows,)`."""

    vector: Tensor | None = None
    """`(features,)` or `(rows, features)`."""

    _kept: dict[Any, Tensor] = attrs.field(factory=dict, init=False)
    """The changes of activations, by shape, dtype and device."""

    def change_for(self, activation: Tensor) -> Tensor | None:
        """Return the change of `activation`, see `neutral`; `None` where there is none to make.

        Raises `WidthMismatch` and `RowsMismatch` where the setting does not fit, and `TypeError`
        for an activation that is no vector of floating point.
        """
        if self.factor is None and self.vector is None:
            return None
        key = activation.shape, activation.dtype, activation.device
        change = self._kept.get(key)
        if change is None:
            with torch.inference_mode(False), torch.no_grad():
                change = self._made_for(activation)
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[key] = change
        return change

    def _made_for(self, activation: Tensor) -> Tensor:
        if not activation.is_floating_point() or not activation.ndim:
            raise TypeError(
                f"A tap changes vectors of floating point, and this activation is "
                f"{activation.dtype}, of shape {tuple(activation.shape)}. Put it on another layer."
            )
        change = neutral(activation)
        factor, shift = change[..., :1], change[..., 1:]
        if self.factor is not None:
            factor.copy_(self._by_row("scale()", self.factor, factor))
        if self.vector is not None and self.coefficient is not None:
            if self.vector.shape[-1] != activation.shape[-1]:
                raise WidthMismatch(self.vector.shape[-1], activation.shape[-1])
            shift.copy_(self._by_row("A vector of add()", self.vector, shift))
            shift.mul_(self._by_row("A coefficient of add()", self.coefficient, shift))
        return change

    def _by_row(self, what: str, given: Tensor, like: Tensor) -> Tensor:
        """Return `given` with the axes of `like`; of a vector the last is the features."""
        given_rows = given.ndim - (given is self.vector)
        moved = given.to(like.device, like.dtype)
        if not given_rows:
            return moved
        batch = len(like) if like.ndim > 1 else None
        if len(given) != batch:
            raise RowsMismatch(what, len(given), batch)
        return moved.reshape(batch, *(1 for _ in like.shape[2:]), *(given.shape[1:] or (1,)))
