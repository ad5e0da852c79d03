"""Where and by what a capture is made: versions, platform, the code's revision."""

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from tenterhook import __version__

PACKAGES = ("transformers", "tokenizers", "zarr", "numpy", "datasets")


def now() -> str:
    """Return the time, UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def environment() -> dict[str, Any]:
    """Return versions, platform and the revision of the code in the working folder."""
    return {
        "versions": dict(versions()),
        "platform": platform.platform(),
        "host": platform.node(),
        "process": os.getpid(),
        "git": git_revision(),
        "numerics": numerics(),
    }


@functools.cache  # looking them up takes as long as a small forward
def versions() -> Mapping[str, str]:
    """Return the versions of what is installed and may change the numbers."""
    import torch

    found = {
        "tenterhook": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def numerics() -> dict[str, Any]:
    """Return the settings of torch in this process that may change the last bits of floats."""
    import torch

    return {
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def git_revision() -> dict[str, Any] | None:
    """Return the commit of the working folder and whether it has changes; `None` without git."""
    status = _git("status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if status is None:  # it takes too long, or knows no such format
        commit = _git("rev-parse", "HEAD")
        return None if commit is None else {"commit": commit, "changed": None}
    lines = status.splitlines()
    commit = next(
        (line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)"
    )
    if commit == "(initial)":
        return None
    return {"commit": commit, "changed": any(not line.startswith("#") for line in lines)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
