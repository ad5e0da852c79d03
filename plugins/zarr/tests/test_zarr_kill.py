"""Captures that are killed, and what else is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("zarr_kill_driver.py")
KILLS = int(os.environ.get("TENTERHOOK_KILLS", "6"))
"""How many kills at random moments, and half as many of what is no capture; `nox -s faults` does
100."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def kill(folder: Path, way: str, number: int) -> int:
    """Run the driver; return how often it killed."""
    command = [sys.executable, "-W", "ignore", str(DRIVER), str(folder), way, str(number)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_killed_at_any_step_and_resumed(tmp_path: Path) -> None:
    """Killed between any two steps on disk, a run shows whole rows alone, and once resumed it has
    the same files, to the byte, as one never killed."""
    assert kill(tmp_path, "steps", 13) > 10


@pytest.mark.timeout(3600)
def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    """The same at random moments, for one process and for one of three that write one run; a
    reader that looks all along never sees a row that is not final."""
    assert kill(tmp_path, "moments", KILLS) == KILLS


@pytest.mark.timeout(3600)
def test_what_is_no_capture_killed_at_random_moments(tmp_path: Path) -> None:
    """Exports, deleting a run, saving a tensor, training an SAE: what was there before is there, or
    what comes after, and the same call again leaves that, and nothing beside."""
    assert kill(tmp_path, "others", KILLS // 2) == KILLS // 2
