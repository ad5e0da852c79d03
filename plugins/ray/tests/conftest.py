"""A cluster of two nodes on this machine, which the tests that need Ray share."""

import importlib.util
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import pytest

FOUND = importlib.util.find_spec("ray")


@attrs.define
class TwoNodes:
    """A cluster of `ray.cluster_utils`, each of its nodes a raylet with one CPU."""

    cluster: Any
    folder: str
    second: Any = None

    @property
    def address(self) -> str:
        """Where it is."""
        return str(self.cluster.address)

    def add(self) -> Any:
        """Start a node, and wait until it is there."""
        return self.cluster.add_node(
            num_cpus=1,
            object_store_memory=100 << 20,
            include_dashboard=False,
        )

    def kill_second(self) -> None:
        """Kill the processes of the second node."""
        self.cluster.remove_node(self.second, allow_graceful=False)


@pytest.fixture(scope="session")
def needs_ray() -> None:
    """Skip where Ray is not installed; what it writes goes to no home directory."""
    if FOUND is None or FOUND.origin is None:  # a folder of that name is no module
        pytest.skip("Ray is not installed: `pip install tenterhook-ray[ray]`; `nox -s ray` has it")


@pytest.fixture(scope="session")
def cluster(needs_ray: None) -> Iterator[TwoNodes]:
    """Return the cluster."""
    folder = tempfile.mkdtemp(prefix="two-nodes-", dir="/tmp")  # paths of sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        # Before Ray is imported, which reads them once.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        found = TwoNodes(import_module("ray.cluster_utils").Cluster(), folder)
        try:
            found.add()
            found.second = found.add()
            yield found
        finally:
            import_module("ray").shutdown()
            found.cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def connection(cluster: TwoNodes) -> Iterator[None]:
    """Be connected while a module's tests run, as in a notebook; the engine leaves that alone."""
    ray = import_module("ray")
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    assert ray.is_initialized()
    ray.shutdown()


@pytest.fixture
def left_behind() -> Callable[[], list[str]]:
    """Return what lists what came since and stays: processes, folders, shared memory, at home."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm"), Path.home()]

    def look() -> set[str]:
        there = subprocess.run(["pgrep", "-fa", "th-ray-"], capture_output=True, text=True).stdout
        return set(there.splitlines()) | {
            str(path)
            for place in places
            for pattern in ("th-ray-*", "plasma*", ".ray*", "ray", "ray/*")
            for path in place.glob(pattern)
        }

    before = look()

    def left() -> list[str]:
        until = time.monotonic() + 60  # the caretaker needs some seconds where we are killed
        while (found := look() - before) and time.monotonic() < until:
            time.sleep(0.1)
        return sorted(found)

    return left
