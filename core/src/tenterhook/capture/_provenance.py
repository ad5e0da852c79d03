"""Where and by what a capture is made: versions, platform, the code's revision, times."""

import platform
import secrets
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from tenterhook._version import __version__

PACKAGES = ("transformers", "tokenizers", "zarr", "numpy", "datasets")


def now() -> str:
    """Return the time, UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def session_name() -> str:
    """Return a name for this process's part of a run, which sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def environment() -> dict[str, Any]:
    """Return versions, platform and the revision of the code in the working folder."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "git": git_revision(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what is installed and may change the numbers."""
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


def git_revision() -> dict[str, Any] | None:
    """Return the commit of the working folder and whether it has changes; `None` without git."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
