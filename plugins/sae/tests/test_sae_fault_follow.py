"""Who writes a run with a limit and who trains on it are killed, and no row is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("follow_kill_driver.py")
KILLS = min(int(os.environ.get("TENTERHOOK_KILLS", "1")), 20)
"""How often each is killed; `nox -s faults` does 20."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """The weights are those of a training on the whole run, to the bit, and the run never holds
    more than its limit."""
    command = [sys.executable, "-W", "ignore", str(DRIVER), str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert min(map(int, done.stdout.split())) >= KILLS
