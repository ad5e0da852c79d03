"""What a capture of a selection gave, put back where the same selection says."""

import weakref

import torch
from torch import Tensor, nn

from tenterhook_selections.at_work import SelectionAtWork, latest
from tenterhook_selections.forwards import running_forward


class PutBack:
    """A change for `model.steer(layer, PutBack(values), <selection>)`.

    `values` are the selected rows, `(n, features)`, in the order in which a capture with the same
    selection gave them, all calls joined. Each opening of a scope begins with the first.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._next: weakref.WeakKeyDictionary[SelectionAtWork, dict[nn.Module, int]]
        self._next = weakref.WeakKeyDictionary()

    def __call__(self, activation: Tensor) -> Tensor:
        """Return the activation with the next rows in the place of those that are selected.

        Raises `ValueError` where there are not as many, or where rows are not put in the order in
        which they came.
        """
        if latest.mask is None:
            raise ValueError("Rows are put back where a selection says; give tokens= or rows=.")
        (selector, layer, part, axes), latest.mask = latest.mask, None
        selecting, module = selector(), layer()
        assert selecting is not None
        assert module is not None
        if part.is_mixed:
            raise ValueError(
                "Rows cannot be put back into beams or candidates, which are not in the order of "
                "the rows that are returned. Give a function."
            )
        places = self._next.setdefault(selecting, {})
        first = places.get(module, 0)
        last = places[module] = first + part.count
        if last > len(self.values):
            raise ValueError(
                f"{len(self.values)} rows are put back, and the selection means more: {last} so "
                "far. Give what a capture with the same selection of the same text gave."
            )
        values = self.values[first:last].to(activation.device, activation.dtype)
        if axes is None and selecting.selection.features is None:
            flat = activation if part.mask.ndim == 1 else activation.flatten(0, 1)
            if values.shape[1:] != flat.shape[1:]:
                raise ValueError(
                    f"Rows of {tuple(values.shape[1:])} are put back, and those of this layer are "
                    f"{tuple(flat.shape[1:])}. Give what a capture of it gave."
                )
            return torch.index_copy(flat, 0, part.index, values).reshape(activation.shape)
        forward = running_forward((id(module), PutBack), selecting.modules)
        picked = selecting.picked(module, activation, part, forward, axes)
        return picked.put(activation, values)
