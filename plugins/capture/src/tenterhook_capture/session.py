"""One process's part of a run: when it began and was last alive, how it ended, how to go on."""

import contextlib
import os
import platform
import secrets
import threading
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from tenterhook.errors import TenterhookError
from tenterhook_capture.provenance import environment, now
from tenterhook_store import RowRanges, RunPlan, RunWriter

HEARTBEAT = 60.0
"""Seconds between two notes that a process is alive."""

SILENT = 600.0
"""Seconds without one after which it is called silent: it is gone, or cannot reach the store."""


def session_name() -> str:
    """Return a name for this process's part of a run, which sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def is_gone(session: Mapping[str, Any]) -> bool:
    """Say whether the process of a session is known to have ended: one of this machine alone."""
    if session.get("host") != platform.node() or not session.get("process"):
        return False
    try:
        os.kill(session["process"], 0)
    except (ProcessLookupError, OverflowError):  # no process of this machine has that number
        return True
    except OSError:  # another user's
        return False
    return False


def in_one_line(error: BaseException) -> str:
    """Return an error's type and what it says."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text}" if text else name


class Session:
    """Notes when a process's part of a run began and ended, and how; tells how to resume.

    While it is entered a thread notes from time to time that the process lives, under `seen`.
    """

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
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="tenterhook-session", daemon=True)

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
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        self._ended.set()
        self._heart.join()
        outcome = "done" if kind is None else f"stopped by {kind.__name__}"
        if error is not None:
            writer = self._writer
            error.add_note(how_to_resume(writer.run_id, writer.plan, writer.committed()))
        try:
            self._writer.note_session(self._name, {**self._facts, "end": now(), "outcome": outcome})
        except OSError:
            # A disk that is full or gone has stopped the run; its own error is the one to show.
            if error is None:
                raise

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError, TenterhookError):  # the run itself will meet it
                self._writer.note_session(self._name, {**self._facts, "seen": now()})


def how_to_resume(run_id: str, plan: RunPlan, committed: Collection[int]) -> str:
    """Say how far a run is, and how to go on."""
    rows = RowRanges.of_units(frozenset(committed), plan, run_id).rows
    return f"Run {run_id!r} has {rows} of {plan.rows} rows; the same command again does the rest."
