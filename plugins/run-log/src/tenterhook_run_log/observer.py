"""The observer: a line of JSON for each thing that happens to a run."""

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenterhook_capture.engine import UnitEvent
    from tenterhook_capture.observers import RunBegun, RunObserver

VARIABLE = "TENTERHOOK_RUN_LOG"
"""Environment variable: the file to log to; nothing is logged where it is empty or not set."""


class RunLog:
    """Appends to a file; several processes may log to one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """`path` is made when the first run begins.

        `OSError` is raised where that fails, and for a pipe: a run would wait until it is read.
        """
        self.path = Path(path)
        self._run_id = ""

    def begin(self, run: "RunBegun") -> None:
        """Log the run's id, and how many rows and units it has and had already."""
        self._run_id = run.run_id
        self._log(
            "begin",
            rows=run.rows,
            rows_committed=run.rows_committed,
            units=run.units,
            units_committed=run.units_committed,
        )

    def unit(self, event: "UnitEvent") -> None:
        """Log a unit: its number and rows, with how it went, or why it failed or was lost."""
        from tenterhook_capture.engine import UnitDone, UnitFailed

        unit = event.unit
        if isinstance(event, UnitDone):
            self._log("unit", **{**event.facts, "unit": unit.number, "rows": unit.rows})
        elif isinstance(event, UnitFailed):
            self._log("failed", unit=unit.number, rows=unit.rows, error=_one_line(event.error))
        else:
            self._log("lost", unit=unit.number, rows=unit.rows, error=event.reason)

    def end(self, error: BaseException | None) -> None:
        """Log that the run is complete, or what stopped it."""
        self._log("end", error=None if error is None else _one_line(error))

    def _log(self, event: str, **facts: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "run": self._run_id, **facts})
        # One write, so lines stay whole.
        with open(self.path, "a", encoding="utf-8", opener=_open) as file:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{self.path} is a pipe; {VARIABLE} must name a file")
            file.write(f"{line}\n")


def _open(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody reads is an error at once, where it would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


class _Silent:
    """Logs nothing."""

    def begin(self, run: "RunBegun") -> None:
        """Do nothing."""

    def unit(self, event: "UnitEvent") -> None:
        """Do nothing."""

    def end(self, error: BaseException | None) -> None:
        """Do nothing."""


def run_log() -> "RunObserver":
    """Return the observer of one run: of the file that the environment names, if it names one."""
    path = os.environ.get(VARIABLE)
    return RunLog(path) if path else _Silent()


def _one_line(error: BaseException) -> str:
    """Return the error's type and message, its line breaks as blanks."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
