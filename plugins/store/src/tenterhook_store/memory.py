"""A store in memory: for tests, for notebooks, and to read what a store is.

It fills the protocols of `protocols` in the plainest way, in about 250 lines:

1. `write_run` makes a `_MemoryRun`, or finds that of the same plan, and returns a writer of it.
2. `open_unit` returns a unit's writer, which copies blocks of rows to lists of its own. Nobody else
   sees them.
3. `commit` joins the blocks and adds them to the run's units under the unit's number, in one step:
   a unit is there as a whole or not at all. Of two that commit one unit the first stays.
4. `run` makes a `Run` of the units that are there by then, and of functions that read them.
"""

import copy
import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from tenterhook_store.errors import (
    DeletedRun,
    IncompleteRun,
    OtherRun,
    UnknownRun,
    UnknownTensor,
    WrongRows,
)
from tenterhook_store.limits import check_droppable, held_now
from tenterhook_store.names import check_attribute, check_free, check_run_id, check_tensor_name
from tenterhook_store.notebook import store_html
from tenterhook_store.plan import ROW_ARRAYS, RunPlan, Unit
from tenterhook_store.problem import Problem
from tenterhook_store.protocols import RowBlock
from tenterhook_store.run import Run
from tenterhook_store.shared_tensors import check_shared_name
from tenterhook_store.tensors import plain_tensor
from tenterhook_store.unit_numbers import UnitNumbers


class MemoryStore:
    """Keeps tensors and runs in memory, for as long as it lives; any thread may use it."""

    persistent = False
    """It is gone with its process; `tenterhook plugins check` leaves out what asks for more."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _stores.add(self)
        self._tensors: dict[str, Tensor] = {}
        self._runs: dict[str, _MemoryRun] = {}

    def _forked(self) -> None:
        """Go on in a process that has none of the threads that may hold the lock."""
        self._lock = threading.RLock()

    @property
    def location(self) -> str:
        """Where it is, as people say it."""
        return "in memory"

    def save_tensor(self, name: str, tensor: Tensor) -> None:
        """Keep a copy of the tensor, of any shape and dtype, in place of what was there.

        Raises `BadName`, `NameTaken`, and `CannotKeep` for one that is not dense.
        """
        check_tensor_name(name)
        stored = plain_tensor(tensor).clone()
        with self._lock:
            check_free("tensor", name, self._tensors)
            self._tensors[name] = stored

    def load_tensor(self, name: str) -> Tensor:
        """Return a copy of the tensor, bit for bit, on the CPU; `UnknownTensor` without one."""
        check_tensor_name(name)
        if name not in self._tensors:
            raise UnknownTensor(name, self.list_tensors(), self.location)
        return self._tensors[name].clone()

    def list_tensors(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self._tensors)

    def delete_tensor(self, name: str) -> None:
        """Remove a tensor; `UnknownTensor` where there is none."""
        check_tensor_name(name)
        with self._lock:
            if self._tensors.pop(name, None) is None:
                raise UnknownTensor(name, self.list_tensors(), self.location)

    def runs(self) -> list[str]:
        """Return the ids of all runs, sorted."""
        return sorted(self._runs)

    def run(self, run_id: str) -> Run:
        """Open a run for reading; `UnknownRun` where there is none."""
        run = self._known(run_id)

        def read(key: Key, start: int, stop: int) -> Tensor:
            try:
                return run.read(key, start, stop)
            except KeyError:  # dropped since the run was opened
                run.check_held(run_id, start, stop)
                raise

        return Run(
            run_id,
            run.plan,
            run.units,
            read_layer=lambda name, start, stop: read(("layer", name), start, stop),
            read_number=lambda name, start, stop: read(("row", name), start, stop),
            load_records=lambda: {
                "sessions": list(copy.deepcopy(dict(run.sessions)).values()),
                "units": [copy.deepcopy(run.logs[number]) for number in sorted(run.logs)],
            },
            store=self,
            load_attributes=lambda: copy.deepcopy(dict(run.attributes)),
            kept=run,
            load_shared=run.shared.get,
            dropped=run.dropped,
        )

    def write_run(self, run_id: str, plan: RunPlan) -> "_MemoryRunWriter":
        """Begin a run, or go on with one of the same plan; see `Store.write_run`.

        Raises `BadName`, `NameTaken`, and `OtherRun` where a run of that id has another plan.
        """
        check_run_id(run_id)
        with self._lock:
            check_free("run", run_id, self._runs)
            run = self._runs.get(run_id)
            if run is None:
                run = self._runs[run_id] = _MemoryRun(plan)
            elif differences := plan.differences(run.plan):
                raise OtherRun(run_id, differences)
        return _MemoryRunWriter(run_id, run)

    def delete_run(self, run_id: str) -> None:
        """Remove a run; `UnknownRun` where there is none."""
        with self._lock:
            self._known(run_id).is_deleted = True
            del self._runs[run_id]

    def drop_unit(self, run_id: str, number: int) -> None:
        """Remove the rows of a committed unit of a run with a limit; see `DropsUnits`."""
        with self._lock:
            run = self._known(run_id)
            check_droppable(run.plan, run_id, number, number in run.units)
            run.dropped.add(number)
            small = {key: each for key, each in run.units[number].items() if key[0] == "small"}
            run.units[number] = small

    def verify_run(self, run_id: str) -> list[Problem]:
        """Return an empty list: memory is whole, or gone. `UnknownRun` where there is no such."""
        self._known(run_id)
        return []

    def set_attribute(self, run_id: str, name: str, value: Any) -> None:
        """Set an attribute of a run; see `Store.set_attribute`."""
        check_attribute(name, value)
        with self._lock:
            attributes = self._known(run_id).attributes
            check_free("attribute", name, attributes)
            if value is None:
                attributes.pop(name, None)
            else:
                attributes[name] = copy.deepcopy(value)

    def check_writable(self) -> None:
        """Do nothing: memory can be written."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "A MemoryStore is in the memory of its process and cannot be pickled for another. "
            "Use a LocalStore, or workers that are forked."
        )

    def count_shards(self, plan: RunPlan) -> int:
        """Return how many tensors the units of a run will be."""
        return plan.unit_count * (len(ROW_ARRAYS) + len(plan.layers))

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._runs)} runs)" if self._runs else "MemoryStore()"

    def _repr_html_(self) -> str:
        return store_html(self)

    def _known(self, run_id: str) -> "_MemoryRun":
        check_run_id(run_id)
        if run_id not in self._runs:
            raise UnknownRun(run_id, self.runs(), self.location)
        return self._runs[run_id]


Key = tuple[str, str]


class _MemoryRun:
    """A run: its committed units, by number, and in each the arrays, by kind and name.

    The kinds are `layer` (rows of a layer), `row` (a number per row) and `small` (what
    `UnitWriter.keep` stores).
    """

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.units: dict[int, dict[Key, Tensor]] = {}
        self.logs: dict[int, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.attributes: dict[str, Any] = {}
        self.shared: dict[str, _MemoryTensors] = {}
        self.dropped = set[int]()
        self.is_deleted = False

    def names(self, number: int) -> list[str]:
        return sorted(name for kind, name in self.units[number] if kind == "small")

    def load(self, number: int, name: str) -> Tensor:
        return self.units[number]["small", name].clone()

    def check_held(self, run_id: str, start: int, stop: int) -> None:
        """Raise `DroppedRows` where one of the rows was dropped."""
        held_now(run_id, self.plan, self.units, self.dropped).check(range(start, stop))

    def read(self, key: Key, start: int, stop: int) -> Tensor:
        size = self.plan.rows_per_unit
        parts = []
        for number in range(start // size, -(-stop // size)):
            offset = number * size
            parts.append(self.units[number][key][max(start - offset, 0) : stop - offset])
        return torch.cat(parts)


class _MemoryRunWriter:
    def __init__(self, run_id: str, run: _MemoryRun) -> None:
        self.run_id = run_id
        self._run = run

    @property
    def plan(self) -> RunPlan:
        return self._run.plan

    def committed(self) -> frozenset[int]:
        return frozenset(self._run.units)

    def open_unit(self, unit: Unit) -> "_MemoryUnitWriter":
        return _MemoryUnitWriter(self.run_id, self._run, unit)

    def note_session(self, session: str, facts: Mapping[str, Any]) -> None:
        self._run.sessions[session] = copy.deepcopy(dict(facts))

    def share(
        self, name: str, pieces: Iterable[Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        check_shared_name(name)
        if name in self._run.shared:
            return
        copies = [
            {key: plain_tensor(tensor).clone() for key, tensor in piece.items()} for piece in pieces
        ]
        if self._run.is_deleted:
            raise DeletedRun(self.run_id)
        self._run.shared.setdefault(name, _MemoryTensors(copy.deepcopy(dict(facts)), copies))

    def finish(self) -> None:
        missing = UnitNumbers.missing(self.committed(), self.plan.unit_count)
        if missing:
            raise IncompleteRun(self.run_id, missing)


class _MemoryTensors:
    """Fills `SharedTensors`."""

    def __init__(self, facts: dict[str, Any], pieces: list[dict[str, Tensor]]) -> None:
        self.facts = facts
        self._pieces = pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def load(self, piece: int) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._pieces[piece].items()}


class _MemoryUnitWriter:
    def __init__(self, run_id: str, run: _MemoryRun, unit: Unit) -> None:
        self._run_id = run_id
        self._run = run
        self._unit = unit
        self._blocks: dict[Key, list[Tensor]] = {}
        self._small: dict[Key, Tensor] = {}
        self._rows = 0

    def append(self, block: RowBlock) -> None:
        block.check(self._run.plan)
        numbers = (block.tokens, block.documents, block.positions)
        for (name, dtype), values in zip(ROW_ARRAYS.items(), numbers, strict=True):
            numbered = torch.empty(values.shape, dtype=getattr(torch, dtype)).copy_(values)
            self._blocks.setdefault(("row", name), []).append(numbered)
        for name, rows in block.layers.items():
            self._blocks.setdefault(("layer", name), []).append(rows.detach().cpu().clone())
        self._rows += len(block)

    def keep(self, name: str, tensor: Tensor) -> None:
        self._small["small", name] = plain_tensor(tensor).clone()

    def commit(self, log: Mapping[str, Any]) -> None:
        if self._run.is_deleted:
            raise DeletedRun(self._run_id)
        if self._rows != self._unit.rows:
            unit = f"unit {self._unit.number}"
            raise WrongRows(unit, f"{self._unit.rows} rows", f"{self._rows} rows")
        joined = {key: torch.cat(blocks) for key, blocks in self._blocks.items()} | self._small
        number = self._unit.number
        self._run.logs.setdefault(number, {"unit": number, **copy.deepcopy(dict(log))})
        self._run.units.setdefault(number, joined)

    def discard(self) -> None:
        self._blocks, self._small = {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()


_stores: "weakref.WeakSet[MemoryStore]" = weakref.WeakSet()


def _forked() -> None:
    for store in list(_stores):
        store._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
