"""Stores in object stores, in memory."""

import secrets
import sys

import pytest

from tenterhook_store.testing import StoreContract
from tenterhook_zarr import ZarrStore


class TestObstore(StoreContract):
    """Through obstore, it does what every store does."""

    persistent = False  # memory:// is of this process

    @pytest.fixture
    def store(self) -> ZarrStore:
        """Return an empty store."""
        pytest.importorskip("obstore")
        return ZarrStore(f"memory://{secrets.token_hex(4)}/some/prefix")


class TestFsspec(StoreContract):
    """Through fsspec, where obstore is not installed, it does too."""

    persistent = False  # memory:// is of this process

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> ZarrStore:
        """Return an empty store."""
        pytest.importorskip("fsspec")
        monkeypatch.setitem(sys.modules, "obstore", None)
        monkeypatch.delitem(sys.modules, "tenterhook_zarr._obstore", raising=False)
        return ZarrStore(f"memory://{secrets.token_hex(4)}/some/prefix")
