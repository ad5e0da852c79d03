"""Every benchmark runs; what it measures is for `nox -s bench`.

A sample of them in an ordinary run, all of them in `nox -s whole`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("bench_*.py"))


QUICK = "bench_hooked_call"


@pytest.mark.timeout(900)  # others may be at work
@pytest.mark.parametrize(
    "script",
    [
        # Of what takes many seconds each, one in every run, and that one quick.
        pytest.param(script, marks=pytest.mark.matrix(sample=int(script.stem == QUICK)))
        for script in BENCHMARKS
    ],
    ids=lambda script: script.stem,
)
def test_runs(script: Path, tmp_path: Path) -> None:
    """One short round ends well and prints a table."""
    done = subprocess.run(
        [sys.executable, str(script), "--quick"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout
