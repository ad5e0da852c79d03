"""The contracts of hooks, where core is alone and where it is not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tenterhook.activations import activation_of
from tenterhook.hooks import Detector
from tenterhook.testing._modules import a_model, returned_by_inner, some_ids
from tenterhook.testing.hooks import DetectorContract

ALONE = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "tenterhook_specs":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


class Sums(Detector):
    """Keeps the sum of what it sees."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep the sum."""
        seen = activation_of(output)
        assert seen is not None
        self.tensor_metadata["sum"] = seen.detach().sum()


class TestSums(DetectorContract):
    """It does what every detector does, one that is made with nothing."""

    def make(self) -> Sums:
        """Return one."""
        return Sums()


def test_contracts_need_no_specs(tmp_path: Path) -> None:
    """The round trip is skipped where they are not installed, and names the distribution."""
    tmp_path.joinpath("conftest.py").write_text(ALONE)
    tmp_path.joinpath("pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -rs\n")
    test = Path(__file__).read_text().partition("\ndef test_contracts_need")[0]
    tmp_path.joinpath("test_alone.py").write_text(test)

    command = [sys.executable, "-m", "pytest", "-q", "-k", "spec or registered"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "pip install tenterhook-specs" in done.stdout


def test_what_inner_returned_is_seen_while_it_is_open() -> None:
    """Of each call; nothing of ours is left on the model."""
    model = a_model()
    with returned_by_inner(model) as found:
        model(some_ids())
        model(some_ids(seed=1))
    model(some_ids())

    assert len(found) == 2
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("structure", ["tuple", "dict"])
def test_a_call_leaves_nothing_in_the_model(structure: str) -> None:
    """Threads share it."""
    model = a_model(structure)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    model(some_ids())

    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
