"""The contract of detectors that count: one that asks who is real keeps it, others do not."""

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenterhook.hooks import Detector
from tenterhook_selections import tokens_here
from tenterhook_selections.testing import CountingDetectorContract


class Sums(Detector):
    """Adds up the activations of real tokens."""

    lock = threading.Lock()

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Add those of one call."""
        tokens = tokens_here(module)
        assert tokens is not None
        found = output[tokens.real].double().sum(0)
        with self.lock:
            self.tensor_metadata["sum"] = self.tensor_metadata.get("sum", 0) + found


class WithPadding(Detector):
    """Counts padding, too."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Add those of one call."""
        found = output.flatten(0, 1).double().sum(0)
        self.tensor_metadata["sum"] = self.tensor_metadata.get("sum", 0) + found


class WithoutLock(Sums):
    """Reads and writes apart, as others come between."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Add those of one call."""
        tokens = tokens_here(module)
        assert tokens is not None
        before = self.tensor_metadata.get("sum", torch.zeros(8, dtype=torch.float64))
        time.sleep(0.0005)
        self.tensor_metadata["sum"] = before + output[tokens.real].double().sum(0)


class TestSums(CountingDetectorContract):
    """It keeps the contract."""

    kind: type[Detector] = Sums

    def make(self) -> Detector:
        """Return one."""
        return self.kind()

    def result(self, detector: Detector) -> Tensor:
        """Return the sums."""
        return detector.tensor_metadata["sum"]


def test_careless_detectors_fail() -> None:
    """One by its padding, one by its threads."""
    contract = TestSums()
    contract.kind = WithPadding
    with pytest.raises(AssertionError, match="not close"):
        contract.test_the_size_of_a_batch_makes_no_difference(3, "left")
    contract.kind = WithoutLock
    with pytest.raises(AssertionError, match="not close"):
        contract.test_threads_lose_nothing()
