"""The small tensors that are stored with the units of a run."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class KeptTensors(Protocol):
    """Reads the small tensors that are stored with committed units."""

    def names(self, number: int) -> list[str]:
        """Return the names of those of a committed unit, sorted."""

    def load(self, number: int, name: str) -> "Tensor":
        """Return one that is there, bit for bit, on the CPU, in memory of its own."""
