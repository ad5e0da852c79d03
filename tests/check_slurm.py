"""The engine and the command of Slurm, with a real one on this machine: `nox -s slurm`."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import slurm_cluster

from tenterhook_capture.slurm import SlurmEngine
from tenterhook_capture.testing.engines import EngineContract

pytestmark = [
    pytest.mark.skipif(slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not())),
    pytest.mark.usefixtures("cluster"),
]


@pytest.fixture(scope="session")
def running() -> Iterator[dict[str, str]]:
    """Start the cluster, for all tests."""
    # No folder of pytest's: others may not pass through those, and munge is another.
    with (
        tempfile.TemporaryDirectory(prefix="tenterhook-slurm-") as folder,
        slurm_cluster.cluster(Path(folder)) as variables,
    ):
        yield variables


@pytest.fixture
def cluster(running: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have commands of Slurm find it; no job is left after a test."""
    for name, value in running.items():
        monkeypatch.setenv(name, value)
    yield
    assert slurm_cluster.jobs() == []


class TestSlurmEngine(EngineContract):
    """Two tasks."""

    has_processes = True

    @pytest.fixture
    def engine(self) -> SlurmEngine:
        """Return the engine."""
        return SlurmEngine(workers=2, address="localhost")
