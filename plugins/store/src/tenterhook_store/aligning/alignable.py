"""What alignments ask of runs and stores: the protocols that they stand on.

A `Run` makes alignments, and a `Store` opens runs; so that nobody needs the other's module, these
are named by what is used of them.
"""

from collections.abc import Iterable
from typing import Any, Protocol, Self

from torch import Tensor

from tenterhook_store.readable import Readable
from tenterhook_store.shared_tensors import SharedTensors


class TensorStore(Protocol):
    """A store, as far as alignments are kept in it."""

    @property
    def location(self) -> str:
        """Where it is."""

    def save_tensor(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor; atomic."""

    def load_tensor(self, name: str) -> Tensor:
        """Return a tensor; `UnknownTensor` where there is none."""

    def delete_tensor(self, name: str) -> None:
        """Remove a tensor, for good."""

    def list_tensors(self) -> list[str]:
        """Return the names of all tensors."""


class Alignable(Readable, Protocol):
    """A run that can be aligned; `Run` is one."""

    @property
    def store(self) -> Any:
        """The store that it is in, where that is known."""

    def shared(self, name: str) -> SharedTensors | None:
        """Return what was shared with the run under a name."""

    def as_of(self, units: Iterable[int]) -> Self:
        """Return it with these units alone; `ReplacedRun` where one is missing."""
