"""Where the rows of one unit go: to its writer, in their order."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_capture.staging import Staged
from tenterhook_store import ROW_ARRAYS, RowBlock, RunPlan, Unit, UnitWriter, torch_dtype

Arrays = dict[str, Tensor]


@attrs.frozen(eq=False)
class Block:
    """Rows of a unit, on their way."""

    tokens: Tensor
    documents: Tensor
    positions: Tensor
    staged: Staged
    places: Tensor | None
    """Which rows of the unit they are, long; `None` for those that come next."""


@attrs.frozen(eq=False)
class Closing:
    """What is known of a unit when its last row is computed."""

    facts: Callable[[], Mapping[str, Any]]
    """Called as the unit is committed, for times and counts."""
    tensors: Mapping[str, Tensor]


class UnitSink:
    """Appends blocks to a unit's writer, and commits it.

    Blocks that come out of order are put in their places in memory for the whole unit first, which
    `shelf` lends: tensors for the longest unit, used again for the next.
    """

    def __init__(self, writing: UnitWriter, unit: Unit, plan: RunPlan, shelf: "Shelf") -> None:
        self._writing = writing
        self._unit = unit
        self._plan = plan
        self._shelf = shelf
        self._whole: Arrays | None = None

    def take(self, block: Block) -> None:
        """Append a block, or put its rows where they belong."""
        try:
            block.staged.wait()
            if block.places is None:
                self._append(block.tokens, block.documents, block.positions, block.staged.arrays)
                return
            if self._whole is None:
                self._whole = self._shelf.take(self._plan)
            whole = self._whole
            numbers = zip(ROW_ARRAYS, (block.tokens, block.documents, block.positions), strict=True)
            for name, rows in (*numbers, *block.staged.arrays.items()):
                whole[name].index_copy_(0, block.places, rows.to(whole[name].dtype))
        finally:
            block.staged.release()

    def finish(self, closing: Closing) -> Mapping[str, Any]:
        """Commit the unit; return what its record says."""
        if self._whole is not None:
            rows = {name: array[: self._unit.rows] for name, array in self._whole.items()}
            tokens, documents, positions = (rows.pop(name) for name in ROW_ARRAYS)
            self._append(tokens, documents, positions, rows)
        for name, tensor in closing.tensors.items():
            self._writing.keep(name, tensor)
        facts = dict(closing.facts())
        self._writing.commit(facts)
        return facts

    def close(self) -> None:
        """Let go of everything; what is not committed is discarded."""
        if self._whole is not None:
            self._shelf.give_back(self._whole)
            self._whole = None
        self._writing.discard()

    def _append(
        self, tokens: Tensor, documents: Tensor, positions: Tensor, layers: Mapping[str, Tensor]
    ) -> None:
        block = RowBlock(tokens=tokens, documents=documents, positions=positions, layers=layers)
        self._writing.append(block)


class Shelf:
    """Memory for whole units, as many as are open at once."""

    def __init__(self) -> None:
        self._free: list[Arrays] = []

    def take(self, plan: RunPlan) -> Arrays:
        """Return an array for each of the plan's, contents unknown."""
        try:
            return self._free.pop()
        except IndexError:
            rows = plan.unit(0).rows  # none has more
            numbers = {n: torch.empty(rows, dtype=torch_dtype(d)) for n, d in ROW_ARRAYS.items()}
            layers = {
                each.name: torch.empty(rows, each.features, dtype=torch_dtype(each.dtype))
                for each in plan.layers
            }
            return {**numbers, **layers}

    def give_back(self, arrays: Arrays) -> None:
        """Lend them to another unit."""
        self._free.append(arrays)
