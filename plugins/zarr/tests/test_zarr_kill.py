"""Captures that are killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("zarr_kill_driver.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_step_and_resumed(tmp_path: Path) -> None:
    """Killed between any two steps on disk, a run shows whole rows alone, and once resumed it has
    the same files, to the byte, as one never killed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", DRIVER, tmp_path, "13"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
