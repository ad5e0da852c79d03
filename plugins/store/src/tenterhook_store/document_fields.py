"""Values that are kept beside the documents of a run: a label, a name, a date of each.

They come with the units, as small tensors that any store keeps: for each field the JSON of a list.
A unit has those of the documents from the one that its first row is of up to the one that the next
unit's first row is of; the last has the rest. So each document's is there once, those without rows
too, and the values of the units in a row are those of the documents in a row.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tenterhook_store.errors import DamagedStore, MissingRows
from tenterhook_store.plan import RunPlan

if TYPE_CHECKING:
    from collections.abc import Set

PREFIX = "document:"
"""Stands before a field's name, in the name of a unit's tensor."""


class HasUnitTensors(Protocol):
    """A run, as far as it is read here."""

    id: str
    plan: RunPlan

    @property
    def committed(self) -> "Set[int]":
        """The units that are there."""

    def unit_tensor(self, number: int, name: str) -> Tensor:
        """Return a small tensor of a unit."""


def field_names(plan: RunPlan) -> tuple[str, ...]:
    """Return the fields whose values a run keeps."""
    documents = plan.about.get("documents")
    names = documents.get("fields") if isinstance(documents, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def field_tensor(values: Sequence[Any]) -> Tensor:
    """Return values as a unit keeps them, uint8 `[bytes]`."""
    content = json.dumps(list(values), separators=(",", ":")).encode()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def read_field(run: HasUnitTensors, name: str) -> list[Any]:
    """Return the values of a field, one a document.

    Raises `MissingRows` where a unit is missing, `DamagedStore` where they are not as they were.
    """
    found: list[Any] = []
    for number in range(run.plan.unit_count):
        if number not in run.committed:
            unit = run.plan.unit(number)
            rows = sum(run.plan.unit(each).rows for each in run.committed)
            span = unit.start, unit.stop
            raise MissingRows(unit.start, number, span, rows, run.plan.rows, run.id)
        content = bytes(run.unit_tensor(number, PREFIX + name).tolist())
        where = f"run {run.id}, unit {number}"
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            reason = f"the values of {name!r} cannot be read ({error})"
            raise DamagedStore(where, reason) from None
        if not isinstance(values, list):
            raise DamagedStore(where, f"the values of {name!r} are no list")
        found += values
    if len(found) != run.plan.documents:
        reason = f"{len(found)} values of {name!r} are there, and {run.plan.documents} documents"
        raise DamagedStore(f"run {run.id}", reason)
    return found
