"""The store in memory."""

import os
import signal
import threading

import pytest
import torch

from tenterhook_store import MemoryStore
from tenterhook_store.testing import StoreContract


class TestMemoryStore(StoreContract):
    """It does what every store does, for as long as its process lives."""

    persistent = False

    @pytest.fixture
    def store(self) -> MemoryStore:
        """Return an empty store."""
        return MemoryStore()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_while_threads_save() -> None:
    """The child has none of the threads, and goes on all the same."""
    store, stop = MemoryStore(), threading.Event()
    for at in range(500):
        store.save_tensor(f"t{at}", torch.ones(1))

    def saves() -> None:
        while not stop.is_set():
            store.save_tensor("t0", torch.ones(1))

    threads = [threading.Thread(target=saves) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        for _ in range(20):
            child = os.fork()
            if not child:
                signal.alarm(60)
                store.save_tensor("child", torch.ones(1))
                os._exit(0 if store.list_tensors()[0] == "child" else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for each in threads:
            each.join()
