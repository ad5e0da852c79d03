"""The zarr store."""

from pathlib import Path

import pytest

from tenterhook_store.testing import StoreContract
from tenterhook_zarr import ZarrStore


class TestZarrStore(StoreContract):
    """It does what every store does."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ZarrStore:
        """Return an empty store."""
        return ZarrStore(tmp_path / "store")
