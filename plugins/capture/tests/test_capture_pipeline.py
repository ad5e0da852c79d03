"""Rows on their way to the store: in threads or inline, bounded, and what becomes of errors."""

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Self

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenterhook_capture import BadArgument, Progress, save_activations
from tenterhook_capture.staging import STEP, BufferPool
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, Run, RunPlan, RunWriter, Unit
from tenterhook_store.testing import same_bits

TEXTS = ["a b c", "d", "e f g h i j k", "l m", "n o p q r", "s t u v"]
LAYERS = ["blocks.0", "blocks.1.mlp"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    """After each test the threads are those of before."""
    before = set(threading.enumerate())
    yield
    assert [t for t in threading.enumerate() if t not in before] == []


class Watched(MemoryStore):
    """A store in memory that has a say before each append and commit."""

    def __init__(
        self,
        on_append: Callable[[int], None] = lambda _: None,
        on_commit: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.on_append, self.on_commit = on_append, on_commit
        self.discarded: list[int] = []

    def write_run(self, run_id: str, plan: RunPlan) -> Any:
        """Begin or go on with a run."""
        return WatchedRun(super().write_run(run_id, plan), self)


class WatchedRun:
    """Writes a run."""

    def __init__(self, inner: RunWriter, store: Watched) -> None:
        self.inner, self.store = inner, store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open_unit(self, unit: Unit) -> Any:
        """Begin a unit."""
        return WatchedUnit(self.inner.open_unit(unit), unit.number, self.store)


@attrs.define
class WatchedUnit:
    """Writes a unit."""

    inner: Any
    number: int
    store: Watched

    def append(self, block: Any) -> None:
        """Append."""
        self.store.on_append(self.number)
        self.inner.append(block)

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Keep."""
        self.inner.keep(name, tensor)

    def commit(self, log: Mapping[str, Any]) -> None:
        """Commit."""
        self.store.on_commit(self.number)
        self.inner.commit(log)

    def discard(self) -> None:
        """Discard."""
        self.store.discarded.append(self.number)
        self.inner.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def captured(store: MemoryStore | None = None, model: WordModel | None = None, **how: Any) -> Run:
    """Capture in batches of one document, three to a unit or so, and open the run."""
    store = store or MemoryStore()
    given = {"batch_size": 1, "rows_per_unit": 9, **how}
    return store.run(save_activations(model or WordModel(), LAYERS, TEXTS, store, **given))


def assert_same(run: Run, other: Run) -> None:
    """Compare two runs to the bit."""
    assert run.tokens[:].tolist() == other.tokens[:].tolist()
    assert run.documents.index[:].tolist() == other.documents.index[:].tolist()
    assert run.documents.position[:].tolist() == other.documents.position[:].tolist()
    for layer in other.layers:
        assert same_bits(run[layer][:], other[layer][:])


@pytest.mark.parametrize("queue_bytes", [1, 200_000, 1 << 30])
@pytest.mark.parametrize("rows_per_unit", [1, 9, 1000])
def test_a_thread_writes_the_same_run(queue_bytes: int, rows_per_unit: int) -> None:
    """Who writes, and how much may wait, is no part of a run."""
    how: dict[str, Any] = {"rows_per_unit": rows_per_unit, "queue_bytes": queue_bytes}
    run = captured(writing="thread", **how)
    assert_same(run, captured(writing="inline", rows_per_unit=rows_per_unit))
    assert run.id == captured(rows_per_unit=rows_per_unit).id


def test_on_the_cpu_rows_are_written_inline() -> None:
    """By default the thread that computes writes, where it computes on the same processor."""
    threads = set()
    store = Watched(on_append=lambda _: threads.add(threading.current_thread()))
    captured(store)
    assert threads == {threading.main_thread()}


def test_forwards_do_not_wait_for_the_disk() -> None:
    """Nothing is written before all of a unit and the next one's first batch are computed."""
    model, next_unit_runs = WordModel(), threading.Event()

    def wait_for_the_next_unit(_: int) -> None:
        assert next_unit_runs.wait(10)

    def note(progress: Progress) -> None:
        if progress.rows > 9:
            next_unit_runs.set()

    captured(Watched(wait_for_the_next_unit), model, writing="thread", progress=note)
    assert next_unit_runs.is_set()


def test_a_commit_is_not_waited_for_either() -> None:
    """While a unit is committed the next one is computed."""
    next_unit_runs = threading.Event()

    def wait_for_the_next_unit(unit: int) -> None:
        assert unit or next_unit_runs.wait(10)

    def note(progress: Progress) -> None:
        if progress.rows > 9:
            next_unit_runs.set()

    store = Watched(on_commit=wait_for_the_next_unit)
    assert captured(store, writing="thread", progress=note).is_complete


def test_a_full_queue_is_waited_for() -> None:
    """With a store that stands still, forwards stop when so many bytes wait."""
    model, go = WordModel(), threading.Event()

    def wait(_: int) -> None:
        go.wait()

    store = Watched(on_append=wait)
    room = 2 * STEP  # two batches of this model
    work = threading.Thread(
        target=captured, args=(store, model), kwargs={"writing": "thread", "queue_bytes": room}
    )
    work.start()
    try:
        expected = 1 + 3  # the probe, two that wait, one that found no room
        while work.is_alive() and len(model.batches) < expected:
            time.sleep(0.01)
        work.join(0.3)  # one more would come now
        assert work.is_alive()
        assert len(model.batches) == expected
    finally:
        go.set()
        work.join()


@pytest.mark.parametrize("writing", ["inline", "thread"])
@pytest.mark.parametrize("when", ["on_append", "on_commit"])
def test_what_the_writer_raises(writing: Any, when: str) -> None:
    """The error of a store ends the run as it is, from where it was raised; nothing is half."""

    def full_disk(unit: int) -> None:
        if unit == 1:
            raise OSError(28, "No space left on device")

    store = Watched(**{when: full_disk})
    with pytest.raises(OSError, match="No space left") as caught:
        captured(store, writing=writing)
    assert "full_disk" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert any("unit 1" in note for note in caught.value.__notes__)
    (run_id,) = store.runs()
    assert 1 not in store.run(run_id).committed
    setattr(store, when, lambda _: None)
    assert_same(captured(store, writing=writing), captured())


def test_an_error_while_the_queue_is_full() -> None:
    """Who waits for room is told that none will come."""

    def broken(unit: int) -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        captured(Watched(broken), writing="thread", queue_bytes=1)


@pytest.mark.parametrize("writing", ["inline", "thread"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_stopped_and_resumed(writing: Any, error: type[BaseException]) -> None:
    """Ctrl-C, or an error, leaves whole units alone, and the same call goes on."""

    def stop(progress: Progress) -> None:
        if progress.rows > 12:
            raise error

    store = Watched()
    with pytest.raises(error):
        captured(store, writing=writing, progress=stop)
    (run_id,) = store.runs()
    assert store.run(run_id).committed == {0}
    assert 1 in store.discarded
    assert_same(captured(store, writing=writing), captured())


def test_a_model_that_fails() -> None:
    """What a forward raises is raised, and the unit's thread ends."""

    class Failing(WordModel):
        def run_token_ids(self, documents: Any) -> torch.Tensor:
            if len(self.batches) == 5:
                raise ArithmeticError("no more")
            return super().run_token_ids(documents)

    store = MemoryStore()
    with pytest.raises((ArithmeticError, RuntimeError), match="no more"):
        captured(store, Failing(), writing="thread")
    assert_same(captured(store), captured())


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"writing": "threads"}, "writing='threads' must be 'auto', 'inline' or 'thread'"),
        ({"queue_bytes": 0}, "queue_bytes=0"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
    ],
)
def test_bad_arguments(how: dict[str, Any], match: str) -> None:
    """They are named, and nothing is made."""
    store = MemoryStore()
    with pytest.raises(BadArgument, match=match):
        captured(store, **how)
    assert store.runs() == []


# --- buffers


@given(st.lists(st.integers(0, 5 * STEP), min_size=1, max_size=40), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_buffers_are_used_again(sizes: list[int], limit: int) -> None:
    """No two that are out share memory, and all of them stay within the limit."""
    pool = BufferPool(limit * STEP)
    out: list[torch.Tensor] = []

    def make_room() -> None:
        pool.give_back(out.pop(0))

    for size in sizes:
        buffer = pool.take(size, make_room)
        assert len(buffer) >= size
        assert buffer.data_ptr() not in [each.data_ptr() for each in out]
        out.append(buffer)
        used = sum(map(len, out))
        assert used <= max(limit * STEP, len(buffer) if len(out) == 1 else 0)


def test_one_buffer_is_enough_inline() -> None:
    """What is given back is what is taken next, if it is large enough."""
    pool = BufferPool(1)
    first = pool.take(1000)
    address = first.data_ptr()
    for size in (10, 1000, STEP):
        pool.give_back(first)
        first = pool.take(size)
        assert first.data_ptr() == address
