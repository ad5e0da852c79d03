from pathlib import Path

import pytest

from tenterhook_capture.observers import RunObserver
from tenterhook_capture.testing.observers import ObserverContract
from tenterhook_run_log import VARIABLE, run_log


class TestRunLog(ObserverContract):
    """It does what every observer does."""

    @pytest.fixture(autouse=True)
    def logged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Name a file to log to."""
        monkeypatch.setenv(VARIABLE, str(tmp_path / "log.jsonl"))

    def make(self) -> RunObserver:
        """Return the observer of one run."""
        return run_log()


class TestWithoutAFile(ObserverContract):
    """Where nothing is to be logged, it does too."""

    @pytest.fixture(autouse=True)
    def not_logged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Name no file."""
        monkeypatch.delenv(VARIABLE, raising=False)

    def make(self) -> RunObserver:
        """Return the observer of one run."""
        return run_log()
