import json
import os
from pathlib import Path
from typing import Any

import pytest

from tenterhook.plugins import PluginManager, PluginWarning, using
from tenterhook_capture import save_activations
from tenterhook_capture.engine import UnitFailed
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_run_log import VARIABLE, RunLog, plugin
from tenterhook_store import MemoryStore

TEXTS = ["one two three", "four five", "six seven eight nine"]


@pytest.fixture(autouse=True)
def registered() -> Any:
    """Have this plugin, and no other, watch runs."""
    manager = PluginManager(autoload=False)
    manager.register(plugin, "run-log")
    with using(manager):
        yield


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return what the log holds."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def capture(store: MemoryStore, **settings: Any) -> str:
    """Run a small capture in units of four rows."""
    return save_activations(WordModel(), "blocks.0", TEXTS, store, rows_per_unit=4, **settings)


def test_a_run_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its begin, each unit, its end."""
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv(VARIABLE, str(log))

    run_id = capture(MemoryStore())

    lines = lines_of(log)
    assert [line["event"] for line in lines] == ["begin", "unit", "unit", "unit", "end"]
    assert {line["run"] for line in lines} == {run_id}
    assert (lines[0]["rows"], lines[0]["units"], lines[0]["rows_committed"]) == (9, 3, 0)
    assert [(line["unit"], line["rows"]) for line in lines[1:4]] == [(0, 4), (1, 4), (2, 1)]
    assert lines[-1]["error"] is None


def test_a_failure_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit that failed, and what stopped the run."""
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv(VARIABLE, str(log))

    class Failing:
        def run(self, units: Any, make_worker: Any) -> Any:
            yield UnitFailed(units[0], OSError("the disk is full"))

    with pytest.raises(OSError, match="disk is full"):
        capture(MemoryStore(), engine=Failing())

    lines = lines_of(log)
    assert [line["event"] for line in lines] == ["begin", "failed", "end"]
    assert lines[1]["error"] == lines[2]["error"] == "OSError: the disk is full"


def test_nothing_is_logged_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable no file is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)

    capture(MemoryStore())

    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a warning that names the plugin, once."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none" / "log.jsonl"))
    store = MemoryStore()

    with pytest.warns(PluginWarning, match="Observer 'run-log' .* failed") as caught:
        run_id = capture(store)

    assert len(caught) == 1
    assert store.run(run_id).is_complete


@pytest.mark.parametrize("is_read", [False, True], ids=["nobody reads", "somebody reads"])
def test_a_pipe_is_no_log(is_read: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a warning, and nobody waits for it to be read."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv(VARIABLE, str(pipe))
    store = MemoryStore()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if is_read else None

    match = "pipe is a pipe; TENTERHOOK_RUN_LOG must name a file" if is_read else "run-log.*failed"
    with pytest.warns(PluginWarning, match=match):
        run_id = capture(store)

    assert store.run(run_id).is_complete
    if reader is not None:
        assert os.read(reader, 1) == b""
        os.close(reader)


def test_two_logs_share_a_file(tmp_path: Path) -> None:
    """Lines are appended."""
    for error in (None, KeyboardInterrupt()):
        RunLog(tmp_path / "log").end(error)

    assert [line["error"] for line in lines_of(tmp_path / "log")] == [None, "KeyboardInterrupt"]
