"""What every store does: a contract to inherit.

class TestMyStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return MyStore(tmp_path / "store")

What is asked of tensors, of rows, of what lasts and of damage stands in a module each.
"""

import pytest

from tenterhook_store import Store
from tenterhook_store.testing.store_damage import DamageTests
from tenterhook_store.testing.store_dropping import DroppingTests
from tenterhook_store.testing.store_durability import DurabilityTests
from tenterhook_store.testing.store_reading import ReadingTests
from tenterhook_store.testing.store_runs import RunTests
from tenterhook_store.testing.store_sharing import SharingTests
from tenterhook_store.testing.store_tensors import TensorTests
from tenterhook_store.testing.store_writing import WritingTests

__all__ = ["StoreContract"]


class StoreContract(
    TensorTests,
    ReadingTests,
    WritingTests,
    RunTests,
    SharingTests,
    DroppingTests,
    DurabilityTests,
    DamageTests,
):
    """Inherit and give the fixture `store`: a store of yours, empty.

    A store that keeps nothing beyond its process says `persistent = False`; what asks for that is
    skipped then. One whose files are not in the folder `store.location` overrides `files`.
    """

    @pytest.fixture
    def store(self) -> Store:
        """Return a store that holds nothing."""
        raise NotImplementedError("Give the fixture `store`.")

    def test_it_is_a_store(self, store: Store) -> None:
        """It has the methods of the protocol and says where it is."""
        assert isinstance(store, Store)
        assert store.location

    def test_new_store_is_empty(self, store: Store) -> None:
        """Nothing is in a store that nothing was put in."""
        assert store.list_tensors() == []
        assert store.runs() == []
