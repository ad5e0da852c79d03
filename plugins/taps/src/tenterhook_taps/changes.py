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
        as_it_is = neutral(activation)
        factor, shift = as_it_is[..., :1], as_it_is[..., 1:]
        if self.factor is not None:
            factor = _for_rows("scale()", self.factor, 0, factor)
        if self.vector is not None and self.coefficient is not None:
            if self.vector.shape[-1] != activation.shape[-1]:
                raise WidthMismatch(self.vector.shape[-1], activation.shape[-1])
            coefficient = _for_rows("A coefficient of add()", self.coefficient, 0, factor)
            shift = coefficient * _for_rows("A vector of add()", self.vector, 1, shift)
        return torch.cat((factor, shift), -1)


def _for_rows(what: str, given: Tensor, axes: int, like: Tensor) -> Tensor:
    """Return what was given, with so many axes for all rows or one more for each, as `like` is."""
    moved = given.to(like.device, like.dtype)
    if given.ndim > axes:
        batch = len(like) if like.ndim > 1 else None
        if len(given) != batch:
            raise RowsMismatch(what, len(given), batch)
        moved = moved.reshape(*like.shape[:-1], -1)
    return moved.expand(like.shape)
