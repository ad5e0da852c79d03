"""What a run is to those who read its rows: the protocol that they stand on.

Loaders, data sets, statistics and exporters take a `Readable` and not a `Run`, which makes some of
them: so neither needs the other's module.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from tenterhook_store.document_map import DocumentMap
from tenterhook_store.plan import RunPlan
from tenterhook_store.row_ranges import RowRanges
from tenterhook_store.rows import Rows


class Readable(Protocol):
    """A run whose rows can be read; `Run` is one."""

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def plan(self) -> RunPlan:
        """What it holds when it is complete."""

    @property
    def committed(self) -> frozenset[int]:
        """Numbers of the units that are committed."""

    @property
    def missing(self) -> Sequence[int]:
        """Numbers of the units that are not committed, rising."""

    @property
    def ranges(self) -> RowRanges:
        """The numbers of the rows that are there."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that have rows, in the model's order."""

    @property
    def tokens(self) -> Rows:
        """The token id of every row, int32 `[rows]`."""

    @property
    def spans(self) -> Rows:
        """The characters of its document that every row is of; `NoSpans` where none are there."""

    @property
    def documents(self) -> DocumentMap:
        """Where every row comes from."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What made it, in plain JSON values."""

    def __getitem__(self, layer: str | int) -> Rows:
        """Return the rows of a layer, `[rows, features]`; `NotCaptured` where there is none."""

    def unit_tensor(self, number: int, name: str) -> Tensor:
        """Return a small tensor that a unit keeps, of any shape and dtype, on the CPU.

        Raises `NotKept` where there is none.
        """
