"""Tensors that are stored once with a run, in pieces, for every process that works on it.

What one process has worked out and all need, as the token ids of the documents, is shared so. Not
every store can: whoever shares asks its writer first, `isinstance(writer, SharesTensors)`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tenterhook_store.errors import BadName

if TYPE_CHECKING:
    from torch import Tensor


class SharedTensors(Protocol):
    """What was shared under one name; a piece is in memory where it is loaded."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was said of them, in plain JSON values."""

    def __len__(self) -> int:
        """How many pieces there are."""

    def load(self, piece: int) -> "dict[str, Tensor]":
        """Return the tensors of a piece by name, bit for bit, on the CPU, the caller's own.

        Raises `DamagedStore` where they are not what was written.
        """


@runtime_checkable
class SharesTensors(Protocol):
    """A writer of a run that can keep tensors with the run as a whole."""

    def share(
        self, name: str, pieces: "Iterable[Mapping[str, Tensor]]", facts: Mapping[str, Any]
    ) -> None:
        """Keep pieces of tensors, and facts in plain JSON values, durably; `Run.shared` reads them.

        They are seen once the last piece is there, and not before. One piece is in memory at a
        time. What is there under the name stays; two writers at once share the same. Raises
        `BadName`, `CannotKeep`, `NotWritable`, and `DeletedRun` where the run is gone.
        """


def check_shared_name(name: Any) -> str:
    """Return a name under which tensors may be shared: `BadName` unless it is `tokens` or alike."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,99}", name, re.ASCII):
        reason = "it must be small letters, digits and '-', and begin with a letter"
        raise BadName("shared tensor", name, reason)
    return name
