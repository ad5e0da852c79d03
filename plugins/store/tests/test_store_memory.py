"""The store in memory."""

import pytest

from tenterhook_store import MemoryStore
from tenterhook_store.testing import StoreContract


class TestMemoryStore(StoreContract):
    """It does what every store does, for as long as its process lives."""

    persistent = False

    @pytest.fixture
    def store(self) -> MemoryStore:
        """Return an empty store."""
        return MemoryStore()
