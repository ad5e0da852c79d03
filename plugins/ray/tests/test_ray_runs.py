"""Captures of a real model by the command: a cluster that ends with it, however that ends.

That each engine goes on with a run of another is tested by `nox -s slurm`, which has all of them.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tenterhook_capture.testing.engine_workers import is_alive, same_rows
from tenterhook_store import LocalStore, Run, UnknownRun

pytestmark = pytest.mark.timeout(1200)  # each starts several processes that import much


def command(store: Path, *engine: str) -> list[str]:
    """Return the command of a small capture of many units, so that it can be stopped within."""
    return [
        *(sys.executable, "-m", "tenterhook", "capture", "tiny:", "--layer", "layer_0"),
        *("--layer", "layer_1", "--data", "tiny:sample", "--sample-limit", "48"),
        *("--rows-per-unit", "75", "--out", str(store), "--run-name", "r", *engine),
    ]


def begin(words: list[str]) -> "subprocess.Popen[str]":
    """Start a command that can be interrupted, whoever runs the tests."""
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def committed(store: Path) -> int:
    """Return how many units there are."""
    try:
        return len(LocalStore(str(store)).run("r").committed)
    except (UnknownRun, FileNotFoundError):
        return 0


def stop(words: list[str], store: Path, sent: signal.Signals) -> tuple[int, str]:
    """Send a signal once there is a unit; return how it ended, and what it said."""
    process = begin(words)
    while not committed(store):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(sent)
    said, _ = process.communicate()
    return process.returncode, said


def processes(store: Path) -> set[int]:
    """Return the processes that had a part in the run, and are there still."""
    sessions = run_of(store).recent(0)["sessions"]
    return set(filter(is_alive, (each["process"] for each in sessions)))


def run_of(store: Path) -> Run:
    """Return the run."""
    return LocalStore(str(store)).run("r")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run that one process makes undisturbed."""
    store = tmp_path_factory.mktemp("whole")
    subprocess.run(command(store), check=True, capture_output=True)
    return run_of(store)


@pytest.mark.usefixtures("needs_ray")
class TestClusterOfOurs:
    """Without an address."""

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
    def test_nothing_is_left(
        self,
        tmp_path: Path,
        whole: Run,
        left_behind: Callable[[], list[str]],
        sent: signal.Signals,
    ) -> None:
        """Whether it is interrupted or killed; and the run goes on here."""
        code, said = stop(command(tmp_path, "--engine", "ray"), tmp_path, sent)
        if sent is signal.SIGINT:
            assert code == 130
            assert "the same command again does the rest" in said
        assert left_behind() == []
        assert processes(tmp_path) == set()
        assert LocalStore(str(tmp_path)).verify_run("r") == []
        subprocess.run(command(tmp_path), check=True, capture_output=True)
        assert same_rows(run_of(tmp_path), whole)
