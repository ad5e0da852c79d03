"""Where and by what a capture is made: versions, platform, the code's revision, times."""

import os
import platform
import secrets
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Self

import torch

from tenterhook._version import __version__
from tenterhook.store import RunWriter

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
        "host": platform.node(),
        "process": os.getpid(),
        "git": git_revision(),
    }


def may_live(session: Mapping[str, Any]) -> bool:
    """Say whether the process of a session may be at work: not where it is known to be gone."""
    if session.get("host") != platform.node() or not session.get("process"):
        return True
    try:
        os.kill(session["process"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


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


def in_one_line(error: BaseException) -> str:
    """Return an error's type and what it says."""
    said = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {said}" if said else name


class Session:
    """Notes when a process's part of a run began and ended, and how; tells how to resume."""

    def __init__(self, writer: RunWriter, facts: Mapping[str, Any], **more: Any) -> None:
        self._writer = writer
        self._name = session_name()
        self._facts = {
            **environment(),
            **facts,
            **{key: value for key, value in more.items() if value is not None},
            "start": now(),
            "end": None,
            "outcome": None,
        }

    def begin(self) -> None:
        """Note that it began."""
        self._writer.note_session(self._name, self._facts)

    def note_failed(self, errors: Mapping[int, BaseException], tries: int) -> None:
        """Keep which units failed, and why, for the note of its end."""
        self._facts["failed"] = {
            str(number): {"error": in_one_line(error)[:2000], "tries": tries}
            for number, error in errors.items()
        }

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        outcome = "done" if kind is None else f"stopped by {kind.__name__}"
        if error is not None:
            error.add_note(self._how_to_resume())
        try:
            self._writer.note_session(self._name, {**self._facts, "end": now(), "outcome": outcome})
        except OSError:
            # A disk that is full or gone has stopped the run; its own error is the one to show.
            if error is None:
                raise

    def _how_to_resume(self) -> str:
        plan = self._writer.plan
        rows = sum(plan.unit(number).rows for number in self._writer.committed())
        return (
            f"Run {self._writer.run_id!r} has {rows} of {plan.rows} rows; "
            "the same command again does the rest."
        )
