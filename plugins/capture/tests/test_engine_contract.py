"""The engine in this process keeps the contract of engines, over a store in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenterhook import Extension, hookimpl
from tenterhook.plugins import default_manager
from tenterhook_capture.engine import LocalEngine
from tenterhook_capture.testing.engines import EngineContract
from tenterhook_store import MemoryStore

STORES: dict[str, MemoryStore] = {}
"""Those of the test that runs, by place: opened again, a place has what was written there."""


def open_in_memory(place: str, *, create: bool = True) -> MemoryStore:
    """Open the store of a place, which is there or made."""
    return STORES.setdefault(place, MemoryStore())


class InMemory:
    """A plugin with stores that last as long as a test, by the scheme `test`."""

    @hookimpl
    def tenterhook_stores(self) -> list[Extension]:
        """Declare the store."""
        target = f"{__name__}:open_in_memory"
        return [Extension("InMemory", target, "Keeps for a test.", schemes=("test",))]


class TestLocalEngine(EngineContract):
    """Units one after the other."""

    @pytest.fixture
    def engine(self) -> LocalEngine:
        """Return the engine."""
        return LocalEngine()

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[str]:
        """Return where the store of the test is."""
        default_manager().register(InMemory(), "in-memory")
        yield f"test:{tmp_path}"
        STORES.clear()
