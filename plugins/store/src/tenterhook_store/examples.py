"""Makes what this distribution offers, for `tenterhook plugins check`."""

from pathlib import Path

from tenterhook_store.memory import MemoryStore


def memory(folder: Path) -> MemoryStore:
    """Return an empty store; it needs no folder."""
    return MemoryStore()
