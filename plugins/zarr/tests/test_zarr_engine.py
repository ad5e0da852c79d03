"""The engine in this process keeps the contract of engines, over the default store."""

import pytest

from tenterhook_capture.engine import LocalEngine
from tenterhook_capture.testing.engines import EngineContract


class TestLocalEngine(EngineContract):
    """Units one after the other."""

    @pytest.fixture
    def engine(self) -> LocalEngine:
        """Return the engine."""
        return LocalEngine()
