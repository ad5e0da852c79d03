"""How far a run is, while several processes work on it: all of it, whoever does what."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tenterhook_capture import Progress, Slice, resume_run, run_status
from tenterhook_zarr import ZarrStore

Th = Callable[..., tuple[object, str, str]]


@pytest.fixture
def store(th: Th, tmp_path: Path) -> ZarrStore:
    """Return a store of a run `r` that is planned, of some units."""
    words = ["--layer", "layer_1", "--data", "tiny:sample", "--sample-limit", "8"]
    place = str(tmp_path / "store")
    options = ["--out", place, "--run-name", "r", "--rows-per-unit", "100", "--plan"]
    code, _, err = th("capture", "tiny:", *words, *options)
    assert code == 0, err
    return ZarrStore(place)


@pytest.fixture
def finishing(store: ZarrStore) -> Iterator[Callable[[], None]]:
    """Return what starts a thread that does the run, as another process would."""
    threads = list[threading.Thread]()

    def start() -> None:
        thread = threading.Thread(target=resume_run, args=(store, "r"))
        thread.start()
        threads.append(thread)

    yield start
    for thread in threads:
        thread.join()


def test_a_slice_shows_the_whole_run(store: ZarrStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of earlier sessions and of other processes, which come as it works, and who is there."""
    monkeypatch.setattr("tenterhook_capture.others.LOOK", 0.0)
    monkeypatch.setattr("tenterhook_capture.others.SHARE", 1e9)
    plan = store.run("r").plan
    resume_run(store, "r", part=Slice(0, 3))
    done = store.run("r").rows_committed
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        if not seen:
            seen.append(progress)
            resume_run(store, "r", part=Slice(2, 3))
            other = {"host": "elsewhere", "process": 1, "start": datetime.now(UTC).isoformat()}
            store.write_run("r", plan).note_session("other", {**other, "end": None})
        seen.append(progress)

    resume_run(store, "r", part=Slice(1, 3), progress=note)
    first, last = seen[0], seen[-1]
    own = sum(unit.rows for unit in Slice(1, 3).of(plan.units()))
    assert {each.rows_total for each in seen} == {plan.rows}
    assert (first.rows, first.rows_new, first.rows_left_here, first.workers) == (done, 0, own, 1)
    assert (last.rows, last.rows_new, last.rows_left_here, last.workers) == (plan.rows, own, 0, 2)
    assert last.rows_gained == plan.rows - done
    assert last.rows_per_second == pytest.approx(last.rows_gained / last.seconds)
    assert last.seconds_left == 0


def test_a_session_that_cannot_be_read_stops_nothing(store: ZarrStore) -> None:
    """How far others are is no reason to stop; `runs verify` says what is wrong."""
    resume_run(store, "r", part=Slice(0, 3))
    seen: list[Progress] = []

    def damage(progress: Progress) -> None:
        if not seen:
            for path in Path(store.path, "runs/r/sessions").glob("*.json"):
                path.write_text("{}")
        seen.append(progress)

    done = store.run("r").rows_committed
    resume_run(store, "r", part=Slice(1, 3), progress=damage)
    assert seen[-1].rows_left_here == 0
    assert store.run("r").rows_committed > done
    assert store.verify_run("r")


def test_status_says_what_is_left(store: ZarrStore, th: Th) -> None:
    """Of a run that somebody is at work on."""
    resume_run(store, "r", part=Slice(0, 2))
    assert run_status(store.run("r")).seconds_left is None
    writer = store.write_run("r", store.run("r").plan)
    for name in ("one", "two"):
        now = datetime.now(UTC).isoformat()
        writer.note_session(name, {"host": name, "process": 1, "start": now, "end": None})
    found = run_status(store.run("r"))
    assert found.workers == 2
    left = found.rows - found.rows_done
    assert found.rows_per_second is not None
    assert found.seconds_left == pytest.approx(left / found.rows_per_second)
    out = th("runs", "status", str(store.path))[1]
    assert ", 2 processes at work" in out
    assert " left, " in out


def test_status_is_watched_until_the_run_is_complete(
    store: ZarrStore, th: Th, finishing: Callable[[], None]
) -> None:
    """Lines are printed when they change, each of them once."""
    finishing()
    code, out, _ = th("runs", "status", str(store.path), "--watch", "--every", "0.1")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("r: ")
    assert lines[-1].startswith("r: complete, ")
    firsts = [line for line in lines if line.startswith("r: ")]
    assert len(firsts) == len(set(firsts))


def test_status_is_watched_as_json_lines(
    store: ZarrStore, th: Th, finishing: Callable[[], None]
) -> None:
    """Each look that has something new is a line."""
    finishing()
    code, out, _ = th("runs", "status", str(store.path), "r", "--watch", "--every", "0.1", "--json")
    looks = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert looks[-1][0]["state"] == "complete"
    done = [look[0]["rows_done"] for look in looks]
    assert done == sorted(done)


def test_status_is_replaced_on_a_terminal(
    store: ZarrStore,
    th: Th,
    finishing: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lines stay where they are."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    finishing()
    out = th("runs", "status", str(store.path), "--watch", "--every", "0.1")[1]
    assert "\x1b[" in out
    assert "r: complete, " in out


def test_watching_stops_at_damage(store: ZarrStore, th: Th) -> None:
    """It is said once."""
    Path(store.path, "runs/r/plan.json").write_text("{}")
    began = time.monotonic()
    code, _, err = th("runs", "status", str(store.path), "--watch", "--every", "60")
    assert time.monotonic() - began < 50
    assert code == 1
    assert err.count("plan.json") == 1


def test_the_time_between_two_looks(store: ZarrStore, th: Th) -> None:
    """It is no less than a tenth of a second."""
    code, _, err = th("runs", "status", str(store.path), "--watch", "--every", "0")
    assert code == 2
    assert "0.1" in err
