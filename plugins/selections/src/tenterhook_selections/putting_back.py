"""What a capture of a selection gave, put back where the same selection says."""

import weakref
from functools import partial

import torch
from torch import Tensor, nn

from tenterhook_selections.at_work import Part, SelectionAtWork, latest
from tenterhook_selections.forwards import Forward, running_forward


class PutBack:
    """A change for `model.steer(layer, PutBack(values), <selection>)`.

    `values` are the selected rows, `(n, features)`, in the order in which a capture with the same
    selection gave them, all calls joined. Each opening of a scope begins with the first. A token
    that a generation without a cache runs again has the row that it had. The end of a scope warns
    of rows that are left.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._next: weakref.WeakKeyDictionary[SelectionAtWork, dict[nn.Module, _Used]]
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
        forward = running_forward((id(module), PutBack), selecting.modules)
        places = self._next.setdefault(selecting, {})
        if not places:
            selecting.left_over.append(partial(self._left_over, places))
        used = places.setdefault(module, _Used())
        index = used.rows_of(part, forward)
        if used.count > len(self.values):
            raise ValueError(
                f"{len(self.values)} rows are put back, and the selection means more: {used.count} "
                "so far. Give what a capture with the same selection of the same text gave."
            )
        values = self.values[index].to(activation.device, activation.dtype)
        if axes is None and selecting.selection.features is None:
            flat = activation if part.mask.ndim == 1 else activation.flatten(0, 1)
            if values.shape[1:] != flat.shape[1:]:
                raise ValueError(
                    f"Rows of {tuple(values.shape[1:])} are put back, and those of this layer are "
                    f"{tuple(flat.shape[1:])}. Give what a capture of it gave."
                )
            return torch.index_copy(flat, 0, part.index, values).reshape(activation.shape)
        picked = selecting.picked(module, activation, part, forward, axes)
        return picked.put(activation, values)

    def _left_over(self, places: "dict[nn.Module, _Used]") -> str | None:
        """Return what is to be said of rows that were not put back; `None` where all were."""
        count = len(self.values)
        fewest = min(places.values(), key=lambda used: used.count)
        if fewest.count + fewest.last_tokens >= count:
            return None
        return (
            f"{count} rows were to be put back, and the selection meant {fewest.count} here: "
            "the others were left. Give what a capture with the same selection of the same text "
            "gave."
        )


class _Used:
    """How many rows were put back at one layer, and which for which token of a generation."""

    def __init__(self) -> None:
        self.count = 0
        self._of_tokens: dict[tuple[int, int, int], int] = {}
        self._of_searches: dict[int, int] = {}
        """How many rows each generation has."""

    @property
    def last_tokens(self) -> int:
        """How many last tokens of rows there are, which a capture may run beside the steps."""
        return sum(self._of_searches.values())

    def rows_of(self, part: Part, forward: Forward | None) -> slice | list[int]:
        """Return which rows are those of a part: the next ones, and of known tokens theirs."""
        step = None if forward is None else forward.whole_step
        if not part.is_searched or part.places is None or step is None:
            first, self.count = self.count, self.count + part.count
            return slice(first, self.count)
        index = []
        self._of_searches[step.search.number] = len(part.mask)
        for row, position in part.places.tolist():
            key = step.search.number, row, position
            if key not in self._of_tokens:
                self._of_tokens[key], self.count = self.count, self.count + 1
            index.append(self._of_tokens[key])
        return index
