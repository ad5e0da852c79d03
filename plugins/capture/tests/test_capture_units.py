"""Units that fail, slices of a plan, captures made again: what becomes of a run."""

import gc
import pickle
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenterhook_capture import (
    BadArgument,
    BadSlice,
    CaptureOptions,
    NotRebuildable,
    Progress,
    Slice,
    UnitsFailed,
    begin_run,
    estimate,
    prepare_capture,
    resume_run,
    run_status,
    save_activations,
    slice_of_launcher,
)
from tenterhook_capture.documents import Documents, ranges
from tenterhook_capture.engine import LocalEngine, UnitDone, UnitEvent, UnitFailed, UnitLost
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import DamagedStore, DeletedRun, MemoryStore, OtherRun, Unit
from tenterhook_store.testing import same_bits

TEXTS = ["a b c", "d e", "f g h i j", "k l", "m n o"]
SETTINGS: dict[str, Any] = {"batch_size": 1, "rows_per_unit": 5}  # 15 rows, 3 units


class Failing(WordModel):
    """Fails on a document of five tokens, so often."""

    def __init__(self, error: BaseException, times: int = 1000) -> None:
        super().__init__()
        self.error, self.times, self.fails = error, times, 0

    def run_token_ids(self, documents: Any) -> Any:
        """Raise, or run."""
        if [len(each) for each in documents] == [5] and self.fails < self.times:
            self.fails += 1
            raise self.error
        return super().run_token_ids(documents)


# --- units that fail


def test_a_unit_that_keeps_failing_is_named_and_the_others_are_done() -> None:
    """It is tried three times; the error lists it with its cause, and how to go on."""
    store, model = MemoryStore(), Failing(ValueError("no such\nword"))
    with pytest.raises(UnitsFailed) as caught:
        save_activations(model, "head", TEXTS, store, run_name="run", **SETTINGS)
    error = caught.value
    assert error.causes == {1: "ValueError: no such word"}
    assert model.fails == 3
    assert str(error) == (
        "Run 'run' is incomplete: 1 unit failed, tried 3 times each, and the others are done "
        "(unit 1: ValueError: no such word)."
    )
    assert error.__cause__ is model.error
    assert any("10 of 15 rows; the same command again" in note for note in error.__notes__)
    assert pickle.loads(pickle.dumps(error)).causes == error.causes
    assert store.run("run").committed == {0, 2}
    status = run_status(store.run("run"))
    assert (status.state, status.failed) == ("incomplete", {1: "ValueError: no such word"})
    assert status.missing == [[1, 1]]

    save_activations(WordModel(), "head", TEXTS, store, run_name="run", **SETTINGS)
    status = run_status(store.run("run"))
    assert (status.state, status.failed, status.missing) == ("complete", {}, [])


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_how_often_a_unit_is_tried(tries: int) -> None:
    """That is said; a unit that succeeds in time is like any other."""
    store, model = MemoryStore(), Failing(ValueError("not now"))
    with pytest.raises(UnitsFailed, match="once" if tries == 1 else f"{tries} times"):
        save_activations(model, "head", TEXTS, store, run_name="a", tries=tries, **SETTINGS)
    assert model.fails == tries
    model = Failing(ValueError("not now"), times=tries - 1)
    save_activations(model, "head", TEXTS, store, run_name="b", tries=tries, **SETTINGS)
    whole = MemoryStore()
    save_activations(WordModel(), "head", TEXTS, whole, run_name="b", **SETTINGS)
    assert same_bits(store.run("b")["head"][:], whole.run("b")["head"][:])


class Held:
    """What a forward holds while it runs."""

    alive: ClassVar["weakref.WeakSet[Held]"] = weakref.WeakSet()

    def __init__(self) -> None:
        Held.alive.add(self)


class FailsAlways(WordModel):
    """Fails on every document but the first two, which a capture tries first."""

    def run_token_ids(self, documents: Any) -> Any:
        """Raise, with much in hand."""
        held = Held()
        if len(documents) == 1 and Held.alive:
            try:
                raise KeyError("in a layer")
            except KeyError as error:
                raise ValueError(f"not {len(documents)}, {held is None}") from error
        return super().run_token_ids(documents)


def test_units_that_fail_hold_nothing() -> None:
    """But the first, whose frames are there to be looked at: a run may have very many units."""
    store, texts = MemoryStore(), ["a b c d e"] * 20
    with pytest.raises(UnitsFailed) as caught:
        save_activations(FailsAlways(), "head", texts, store, run_name="run", **SETTINGS)
    assert len(caught.value.causes) == 20
    gc.collect()
    assert len(Held.alive) == 1


@pytest.mark.parametrize("tries", [0, -1, 1.5, True])
def test_tries_that_make_no_sense(tries: Any) -> None:
    """They are refused before anything is made."""
    store = MemoryStore()
    with pytest.raises(BadArgument, match="tries="):
        save_activations(WordModel(), "head", TEXTS, store, tries=tries)
    assert store.runs() == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        DamagedStore("here", "gone"),
        DeletedRun("run"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_is_no_units_fault_stops_at_once(error: BaseException) -> None:
    """It is raised as it is after one try, and what was committed stays."""
    store, model = MemoryStore(), Failing(error)
    with pytest.raises(type(error)) as caught:
        save_activations(model, "head", TEXTS, store, run_name="run", **SETTINGS)
    assert caught.value is error
    assert model.fails == 1
    assert store.run("run").committed == {0}
    assert any("5 of 15 rows" in note for note in caught.value.__notes__)


class Losing(LocalEngine):
    """Loses every unit at its first try, one of them after it was done; never mentions another."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []

    def run(self, units: Sequence[Unit], make_worker: Any) -> Iterator[UnitEvent]:
        """Do them, or not."""
        self.rounds.append([unit.number for unit in units])
        if len(self.rounds) > 1:
            yield from super().run(units, make_worker)
            return
        make_worker()(units[0])
        yield UnitLost(units[0], "the machine went away")
        yield UnitLost(units[1], "the machine went away")


def test_the_store_says_what_is_done() -> None:
    """Units are tried again where the store has none of them, whatever the engine said."""
    store, engine = MemoryStore(), Losing()
    seen: list[int] = []
    save_activations(
        WordModel(),
        "head",
        TEXTS,
        store,
        run_name="r",
        engine=engine,
        progress=lambda progress: seen.append(progress.rows),
        **SETTINGS,
    )
    assert engine.rounds == [[0, 1, 2], [1, 2]]
    assert store.run("r").is_complete
    assert seen[-1] == 15  # those of a worker, too, that was lost when it had committed


def test_units_that_are_lost_are_named() -> None:
    """A unit whose worker is lost every time is left out like one that fails."""

    class Lost(LocalEngine):
        def run(self, units: Sequence[Unit], make_worker: Any) -> Iterator[UnitEvent]:
            yield UnitLost(units[0], "killed by signal 9")

    with pytest.raises(UnitsFailed, match=r"unit 0: .*lost: killed by signal 9; unit 1: .*never"):
        save_activations(WordModel(), "head", TEXTS, MemoryStore(), engine=Lost(), **SETTINGS)


def test_progress_counts_each_row_once() -> None:
    """Rows of failed tries are not counted, and those done in other processes are."""
    seen: list[int] = []
    save_activations(
        Failing(ValueError(), times=2),
        "head",
        TEXTS,
        MemoryStore(),
        progress=lambda progress: seen.append(progress.rows),
        **SETTINGS,
    )
    assert max(seen) == seen[-1] == 15

    class Remote(LocalEngine):
        """Its workers tell nothing of their rows."""

        def run(self, units: Sequence[Unit], make_worker: Any) -> Iterator[UnitEvent]:
            events = super().run(units, lambda: quiet(make_worker))
            yield from events

    def quiet(make_worker: Any) -> Any:
        from tenterhook_capture.workers import make_worker as make

        return make(make_worker.capture, make_worker.writer)

    rows: list[int] = []
    save_activations(
        WordModel(),
        "head",
        TEXTS,
        MemoryStore(),
        progress=lambda progress: rows.append(progress.rows),
        engine=Remote(),
        **SETTINGS,
    )
    assert rows == [0, 5, 10, 15]


def test_events_of_the_local_engine() -> None:
    """A unit that raises is an event; what stops a program is not."""

    def work(unit: Unit) -> Mapping[str, Any]:
        if unit.number == 1:
            raise ValueError("this one")
        if unit.number == 2:
            raise KeyboardInterrupt
        return {}

    events = LocalEngine().run([Unit(n, n, n + 1) for n in range(3)], lambda: work)
    assert isinstance(next(events), UnitDone)
    assert isinstance(next(events), UnitFailed)
    with pytest.raises(KeyboardInterrupt):
        next(events)


@pytest.mark.parametrize(
    ("option", "match"), [({"codec": "gzip"}, "codec='gzip' must be 'none', 'zstd' or 'blosc'")]
)
def test_options_that_make_no_sense(option: dict[str, Any], match: str) -> None:
    """They are refused before anything is made."""
    with pytest.raises(BadArgument, match=match):
        save_activations(WordModel(), "head", TEXTS, MemoryStore(), **option)


# --- slices


@given(st.integers(0, 200), st.integers(1, 50))
def test_slices_are_a_partition(units: int, count: int) -> None:
    """Every unit is in one slice; slices are of about one size."""
    plan = [Unit(n, n, n + 1) for n in range(units)]
    parts = [Slice(index, count).of(plan) for index in range(count)]
    assert [unit for part in parts for unit in part] == plan
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "1", "2/2", "0/0", "-1/2", "1/2/3", "a/b", "1.0/2", "١/٢"])
def test_slices_that_make_no_sense(text: str) -> None:
    """The error shows what was given and what is meant."""
    with pytest.raises(BadSlice, match="must be i/n, part i of n parts counted from 0"):
        Slice.parse(text)


@pytest.mark.parametrize(
    ("variables", "expected", "said"),
    [
        ({"RANK": "2", "WORLD_SIZE": "4", "SLURM_PROCID": "0"}, "2/4", "RANK=2 WORLD_SIZE=4"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, "1/3", "SLURM_PROCID=1 SLURM_NTASKS=3"),
        (
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "5",
            },
            "2/4",
            "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=4",
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "9",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "4",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
            },
            "5/6",
            "SLURM_ARRAY_TASK_ID=9",
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_ARRAY_TASK_COUNT": "16",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_PROCID": "0",  # of the script, whose job asked for no number of tasks
            },
            "3/16",
            "SLURM_ARRAY_TASK_ID=3",
        ),
        ({"SLURM_PROCID": "0"}, "0/1", "SLURM_PROCID=0"),
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "8"}, "0/8", "JOB_COMPLETIONS=8"),
        ({"WORLD_SIZE": "4"}, None, ""),
        ({}, None, ""),
    ],
    ids=str,
)
def test_slices_of_launchers(variables: dict[str, str], expected: str | None, said: str) -> None:
    """The variables of torchrun, Slurm and Kubernetes say which part is this process's."""
    found = slice_of_launcher(variables)
    assert (None if found is None else str(found[0])) == expected
    assert found is None or said in found[1]


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        (
            {"RANK": "0"},
            "RANK=0: it is the number .* torchrun, and there is no WORLD_SIZE.*--slice",
        ),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID=1: .*no SLURM_NTASKS"),
        ({"SLURM_ARRAY_TASK_ID": "0"}, "no SLURM_ARRAY_TASK_COUNT"),
        ({"JOB_COMPLETION_INDEX": "0"}, "no JOB_COMPLETIONS or JOB_COMPLETION_COUNT"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4 WORLD_SIZE=4: .* give no slice"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, "RANK=x WORLD_SIZE=4: .* give no slice"),
        (
            {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "3"},
            "SLURM_ARRAY_TASK_ID=9 .* give no slice",
        ),
    ],
    ids=str,
)
def test_launchers_that_make_no_sense(variables: dict[str, str], match: str) -> None:
    """A number without its count, or beyond it, is an error, and no part is done."""
    with pytest.raises(BadSlice, match=match):
        slice_of_launcher(variables)


# --- plans, estimates, recipes


def test_a_plan_alone_and_what_it_takes() -> None:
    """An estimate makes nothing; a plan makes the run, and no row of it."""
    store = MemoryStore()
    options = CaptureOptions(**SETTINGS)
    capture = prepare_capture(WordModel(), ["head", "blocks.0"], TEXTS, options=options)
    found = estimate(store, capture, "run")
    assert store.runs() == []
    assert (found.rows, found.rows_missing, found.units, found.units_missing) == (15, 15, 3, 3)
    assert found.bytes == 15 * (97 + 12) * 4
    assert found.shards == store.count_shards(capture.plan)
    assert found.seconds == pytest.approx(15 / found.rows_per_second)
    writer = begin_run(store, capture, "run")
    assert writer.committed() == frozenset()
    assert run_status(store.run("run")).state == "planned"
    save_activations(WordModel(), ["head", "blocks.0"], TEXTS, store, run_name="run", **SETTINGS)
    again = estimate(store, capture, "run")
    assert (again.rows_missing, again.seconds) == (0, 0)
    other = prepare_capture(WordModel(), "head", TEXTS, options=options)
    with pytest.raises(OtherRun, match=r"layers\.blocks\.0\.dtype is 'float32' there and nothing"):
        estimate(store, other, "run")


@pytest.mark.parametrize("rows_per_unit", [1, 7, 100])
@pytest.mark.parametrize("batch_size", [1, 100])
def test_estimates_of_small_data(rows_per_unit: int, batch_size: int) -> None:
    """One batch, or one row, is enough to measure."""
    options = CaptureOptions(batch_size=batch_size, rows_per_unit=rows_per_unit)
    capture = prepare_capture(WordModel(), "head", ["a b c"], options=options)
    assert estimate(MemoryStore(), capture, "run").rows_per_second > 0


def test_a_run_of_what_has_no_name() -> None:
    """It says so, with what has none and the ways out; the same call goes on."""
    store = MemoryStore()
    options = CaptureOptions(**SETTINGS)
    begin_run(store, prepare_capture(WordModel(), "head", TEXTS, options=options), "run")
    match = (
        r"Run 'run' was made from a model that was not loaded by a name and documents that were "
        r"not read by a name, .*The same call that began it goes on with it"
    )
    with pytest.raises(NotRebuildable, match=match):
        resume_run(store, "run")
    save_activations(WordModel(), "head", TEXTS, store, run_name="run", **SETTINGS)
    resume_run(store, "run")  # nothing is missing, so nothing is loaded


def test_what_differs_is_said_in_few_words() -> None:
    """Only what was asked for, no hashes, and the way out."""
    store = MemoryStore()
    save_activations(WordModel(), "head", TEXTS, store, run_name="run")
    with pytest.raises(OtherRun) as caught:
        save_activations(
            WordModel(seed=1), "head", [*TEXTS, "x"], store, run_name="run", dtype="bfloat16"
        )
    assert str(caught.value) == (
        "Run 'run' is there already and is another one (documents is 5 there and 6 here; "
        "documents not the same; layers.head.dtype is 'float32' there and 'bfloat16' here; "
        "and 2 more). Give the options that it was begun with, or another run name."
    )


# --- which documents were left out


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any), st.integers(1, 30))
def test_a_limit_counts_what_stands_before_it(kept: list[bool], limit: int) -> None:
    """`first` leaves the empty ones that a reader who stops there would have seen."""
    empty = [number for number, keep in enumerate(kept) if not keep]
    texts = [str(number) for number, keep in enumerate(kept) if keep]
    found = Documents(texts, empty=empty).first(limit)
    if limit >= len(texts):
        assert list(found.empty) == empty
    else:
        last = int(found.texts[-1])
        assert list(found.empty) == [number for number in empty if number < last]


def test_which_documents_have_no_rows() -> None:
    """The metadata names them, in bounded space."""
    texts = ["", "a", "", "", "b", ""]
    store = MemoryStore()
    save_activations(WordModel(), "head", texts, store, run_name="run")
    found = store.run("run").metadata
    assert found["documents_without_tokens"] == [[0, 0], [2, 3], [5, 5]]
    assert len(ranges(range(0, 10_000, 2))) == 100


def test_units_say_when() -> None:
    """Each unit has its times; a run its rate and its last activity."""
    store = MemoryStore()
    save_activations(WordModel(), "head", TEXTS, store, run_name="run", **SETTINGS)
    found = store.run("run")
    for unit in found.metadata["units"]:
        assert unit["start"] <= unit["end"]
        assert unit["rows"] == 5
    status = run_status(found)
    assert status.rows_per_second is not None
    assert status.rows_per_second > 0
    assert status.last_activity == found.metadata["end"]
    assert (status.rows_done, status.units_done, status.bytes_done) == (15, 3, 15 * 97 * 4)


@pytest.mark.parametrize(
    ("sessions", "state", "silent"),
    [
        ({"a": {"start": 7200}}, "silent", [True]),
        ({"a": {"start": 7200, "seen": 60}}, "running", [False]),
        ({"a": {"start": 7200}, "b": {"start": 30}}, "running", [True, False]),
        ({"a": {"start": 7200, "end": 3600}}, "stopped", []),
        ({"a": {"start": 30, "is_worker": True}}, "stopped", []),
    ],
    ids=str,
)
def test_processes_of_other_machines(
    sessions: dict[str, dict[str, Any]], state: str, silent: list[bool]
) -> None:
    """One that was killed there cannot say so: it is silent once it has not been seen for long."""
    store = MemoryStore()
    capture = prepare_capture(WordModel(), "head", TEXTS, options=CaptureOptions())
    writer = begin_run(store, capture, "run")
    for name, ago in sessions.items():
        times = {
            key: (datetime.now(UTC) - timedelta(seconds=value)).isoformat()
            for key, value in ago.items()
            if key != "is_worker"
        }
        facts = {"host": f"node-{name}", "process": 7, "end": None, **ago, **times}
        writer.note_session(name, facts)
    status = run_status(store.run("run"))
    assert status.state == state
    assert [each.is_silent for each in status.open_sessions] == silent
    for each in status.open_sessions:
        ago = sessions[each.host.removeprefix("node-")]
        assert each.seconds == pytest.approx(ago.get("seen", ago["start"]), abs=30)


def test_a_process_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """From time to time, while it works; all that it noted before stays."""
    monkeypatch.setattr("tenterhook_capture.session.HEARTBEAT", 0.01)
    store = MemoryStore()
    found: list[dict[str, Any]] = []

    def wait(progress: Progress) -> None:
        until = time.monotonic() + 30
        while progress.rows_new and not found and time.monotonic() < until:
            (session,) = store.run("run").metadata["sessions"]
            if "seen" in session:
                found.append(session)
                assert run_status(store.run("run")).state == "running"

    save_activations(WordModel(), "head", TEXTS, store, run_name="run", progress=wait, **SETTINGS)
    (session,) = store.run("run").metadata["sessions"]
    assert found[0]["seen"] >= found[0]["start"] == session["start"]
    assert (found[0]["end"], session["outcome"], session["host"]) == (
        None,
        "done",
        found[0]["host"],
    )
    assert not [each for each in threading.enumerate() if each.name == "tenterhook-session"]


def test_the_code_that_made_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session has the commit of the working folder, and whether tracked files differ from it."""

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    def noted() -> Any:
        store = MemoryStore()
        save_activations(WordModel(), "head", ["a b"], store, run_name="run")
        (session,) = store.run("run").metadata["sessions"]
        return session["git"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert noted() is None
    git("init", "-q")
    assert noted() is None
    Path("code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-qm", "first")
    Path("other.py").write_text("not tracked")
    commit = git("rev-parse", "HEAD")
    assert noted() == {"commit": commit, "changed": False}
    Path("code.py").write_text("2")
    assert noted() == {"commit": commit, "changed": True}
