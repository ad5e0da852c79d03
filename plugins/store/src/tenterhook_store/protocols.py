"""What a store is: the protocols that the stores of plugins fill.

A run is written by units. Each row has its place before anything is computed, a unit's rows are
seen by nobody until its commit record is there, and writing a unit twice leaves the same bytes;
so any number of processes write one run with no lock between them, and one that was killed is
resumed by doing the units that have no record.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import attrs

from tenterhook_store.errors import WrongRows
from tenterhook_store.plan import RunPlan, Unit
from tenterhook_store.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tenterhook_store.run import Run


@attrs.frozen(eq=False, kw_only=True)
class RowBlock:
    """Some rows that follow each other, of every array of a run."""

    tokens: "Tensor"
    """Token ids, `[rows]`."""
    documents: "Tensor"
    """Which document each row comes from, `[rows]`."""
    positions: "Tensor"
    """Which token of its document each row is, `[rows]`."""
    layers: "Mapping[str, Tensor]"
    """The rows of each layer by its name, `[rows, features]`, on the CPU."""

    def __len__(self) -> int:
        return len(self.tokens)

    def check(self, plan: RunPlan) -> None:
        """Raise `WrongRows` unless the arrays are those of the plan and equally long."""
        if self.layers.keys() != {layer.name for layer in plan.layers}:
            names = [layer.name for layer in plan.layers]
            raise WrongRows("layers", str(names), str(list(self.layers)))
        for name, numbers in (("document", self.documents), ("position", self.positions)):
            if numbers.shape != self.tokens.shape:
                raise WrongRows(name, str(list(self.tokens.shape)), str(list(numbers.shape)))
        for layer in plan.layers:
            tensor = self.layers[layer.name]
            expected = f"{layer.dtype} {[len(self), layer.features]}"
            found = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            if found != expected:
                raise WrongRows(layer.name, expected, found)


class UnitWriter(Protocol):
    """Writes one unit. Leaving its `with` block uncommitted discards it."""

    def append(self, block: RowBlock) -> None:
        """Write the unit's next rows; `WrongRows` where they do not fit the plan.

        Nothing of the block's tensors is looked at after it returns: whoever calls uses their
        memory again.
        """

    def keep(self, name: str, tensor: "Tensor") -> None:
        """Store a small tensor with the unit: a mean, a covariance, the scales of its rows.

        It is durable and seen with the unit's commit, and not before; `Run.unit_tensor` reads it.
        Any name will do; the same name again replaces. It is in memory until the commit. Raises
        `CannotKeep` for what is no dense tensor.
        """

    def commit(self, log: Mapping[str, Any]) -> None:
        """Make the unit durable, then visible, at once and for good; atomic.

        `log` says how it went (times, counts), in plain JSON values. Committing what another
        writer has committed in the meantime does nothing. Raises `WrongRows` unless all rows of
        the unit were appended.
        """

    def discard(self) -> None:
        """Drop what was written; nothing where it is committed. May be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class RunWriter(Protocol):
    """Writes a run, in one of possibly several processes."""

    @property
    def run_id(self) -> str:
        """The run's id."""

    @property
    def plan(self) -> RunPlan:
        """The run's plan."""

    def committed(self) -> frozenset[int]:
        """Return the numbers of the units that are committed now, whoever wrote them."""

    def open_unit(self, unit: Unit) -> UnitWriter:
        """Begin a unit, from its first row, whatever was left of an earlier try."""

    def note_session(self, session: str, facts: Mapping[str, Any]) -> None:
        """Keep what is to be known of this process's part of the work, in plain JSON values.

        Replaces what was there under the same name.
        """

    def finish(self) -> None:
        """Tidy up once all units are committed; `IncompleteRun` where one is not."""


@runtime_checkable
class Store(Protocol):
    """Keeps tensors by name, and runs."""

    @property
    def location(self) -> str:
        """Where it is, as people say it."""

    def save_tensor(self, name: str, tensor: "Tensor") -> None:
        """Store a copy of the tensor under the name, in place of what was there; atomic.

        It may have any shape, dtype and device. Names are slash-separated. Raises `BadName`,
        `NameTaken`, `NotWritable`, and `CannotKeep` for a tensor that is not dense.
        """

    def load_tensor(self, name: str) -> "Tensor":
        """Return the tensor as it was saved, bit for bit, on the CPU, in memory of its own.

        Its shape and dtype are those that it had. Raises `UnknownTensor` where there is none.
        """

    def list_tensors(self) -> list[str]:
        """Return the names of all tensors, sorted."""

    def delete_tensor(self, name: str) -> None:
        """Remove a tensor, for good; `UnknownTensor` where there is none."""

    def runs(self) -> list[str]:
        """Return the ids of all runs, sorted."""

    def run(self, run_id: str) -> "Run":
        """Open a run for reading, which changes nothing; `UnknownRun` where there is none."""

    def write_run(self, run_id: str, plan: RunPlan) -> RunWriter:
        """Begin a run, or go on with one of the same plan.

        Raises `BadName`, `NameTaken`, `NotWritable`, and `OtherRun` where a run of that id was
        made from another plan; where it raises, the store is as it was before.
        """

    def delete_run(self, run_id: str) -> None:
        """Remove a run, for good; `UnknownRun` where there is none.

        It is gone from `runs()` at once and as a whole, then its files go. A process that is
        writing it is told so when it next commits a unit.
        """

    def verify_run(self, run_id: str) -> list[Problem]:
        """Read everything that a run has, and return what is not as it was written.

        Every checksum is read, and what is there is compared with the plan and with the commit
        records. Units that are not committed yet are no problem. Changes nothing; `UnknownRun`
        where there is no such run.
        """

    def set_attribute(self, run_id: str, name: str, value: Any) -> None:
        """Note something on a run, in plain JSON values, in place of what was there; atomic.

        `Run.attributes` has it; `None` removes it. Raises `BadName`, `NameTaken`, `CannotKeep`,
        `UnknownRun`, `NotWritable`.
        """

    def check_writable(self) -> None:
        """Raise `NotWritable` if nothing can be written here; leaves nothing behind."""

    def count_shards(self, plan: RunPlan) -> int:
        """Return how many files of rows a run of that plan will have; objects, in a bucket."""
