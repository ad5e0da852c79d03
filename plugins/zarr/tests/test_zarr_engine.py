"""The engine in this process keeps the contract of engines, over the default store."""

import pytest

from tenterhook.engine import LocalEngine
from tenterhook.testing.engines import EngineContract


class TestLocalEngine(EngineContract):
    """Units one after the other."""

    @pytest.fixture
    def engine(self) -> LocalEngine:
        """Return the engine."""
        return LocalEngine()
