"""The store in memory."""

import pytest

from tenterhook_store import MemoryStore
from tenterhook_store.testing import StoreContract


class TestMemoryStore(StoreContract):
    """It does what every store does."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        """Return an empty store."""
        return MemoryStore()
