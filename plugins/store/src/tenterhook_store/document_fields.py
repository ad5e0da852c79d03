"""Values that are kept beside the documents of a run: a label, a name, a date of each.

They come with the units, as small tensors that any store keeps: for each field the JSON of a list.
A unit has those of the documents from the one that its first row is of up to the one that the next
unit's first row is of; the last has the rest. So each document's is there once, those without rows
too, and the values of the units in a row are those of the documents in a row.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from tenterhook_store.errors import DamagedStore, MissingRows
from tenterhook_store.kept_tensors import KeptTensors
from tenterhook_store.plan import RunPlan

if TYPE_CHECKING:
    from collections.abc import Set

PREFIX = "document:"
"""Stands before a field's name, in the name of a unit's tensor."""


def field_names(plan: RunPlan) -> tuple[str, ...]:
    """Return the fields whose values a run keeps."""
    documents = plan.about.get("documents")
    names = documents.get("fields") if isinstance(documents, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def field_tensor(values: Sequence[Any]) -> Tensor:
    """Return values as a unit keeps them, uint8 `[bytes]`."""
    content = json.dumps(list(values), separators=(",", ":")).encode()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


@attrs.frozen(eq=False)
class DocumentFields:
    """Reads the values of fields of a run."""

    run: str
    plan: RunPlan
    committed: "Set[int]"
    kept: KeptTensors

    def read(self, name: str) -> list[Any]:
        """Return the values of a field, one a document.

        Raises `MissingRows` where a unit is missing, `DamagedStore` where they are not as they
        were.
        """
        found: list[Any] = []
        for number in range(self.plan.unit_count):
            if number not in self.committed:
                unit = self.plan.unit(number)
                rows = sum(self.plan.unit(each).rows for each in self.committed)
                span = unit.start, unit.stop
                raise MissingRows(unit.start, number, span, rows, self.plan.rows, self.run)
            found += self._of_unit(number, name)
        if len(found) != self.plan.documents:
            count = self.plan.documents
            reason = f"{len(found)} values of {name!r} are there, and {count} documents"
            raise DamagedStore(f"run {self.run}", reason)
        return found

    def _of_unit(self, number: int, name: str) -> list[Any]:
        where = f"run {self.run}, unit {number}"
        if PREFIX + name not in self.kept.names(number):
            raise DamagedStore(where, f"the values of {name!r} are not there")
        content = bytes(self.kept.load(number, PREFIX + name).tolist())
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            reason = f"the values of {name!r} cannot be read ({error})"
            raise DamagedStore(where, reason) from None
        if not isinstance(values, list):
            raise DamagedStore(where, f"the values of {name!r} are no list")
        return values
