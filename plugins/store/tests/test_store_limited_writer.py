"""Writing runs with a limit: units wait for followers, and go once all of them have read them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tenterhook_store import (
    BadName,
    BadSetting,
    CannotDrop,
    DamagedStore,
    DeletedRun,
    Follower,
    MemoryStore,
    RunWriter,
    UnitHeldBack,
    followers,
    unfollow,
)
from tenterhook_store.following import check_follower_name, note_follower
from tenterhook_store.limited_writer import limited
from tenterhook_store.limits import KEEP, units_held
from tenterhook_store.testing.small_runs import a_plan, write

PLAN = a_plan(rows=80, about={KEEP: 650})
"""Ten units, of which two are held at once."""


@pytest.fixture
def store() -> MemoryStore:
    """A store that holds nothing."""
    return MemoryStore()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may have units wait long; nothing is said of it."""
    monkeypatch.setattr("tenterhook_store.limited_writer.PATIENCE", 1e9)


@contextmanager
def writing(store: MemoryStore, writer: RunWriter, ended: list[Any]) -> Iterator[None]:
    """Write all units in a thread, and wait for it at the end; what it raises is in `ended`."""

    def act() -> None:
        try:
            write(writer, writer.plan.units())
        except Exception as error:  # noqa: BLE001 - it is looked at
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    except BaseException:
        store.delete_run("run")  # so that nobody waits
        raise
    finally:
        thread.join()


def wait_for(store: MemoryStore, committed: int) -> None:
    """Wait until so many units are committed."""
    while len(store.run("run").committed) < committed:
        threading.Event().wait(0.002)


def test_units_wait_for_all_followers(store: MemoryStore) -> None:
    """Never more than two are there; the slowest follower is waited for, and no row of it goes."""
    writer = limited(store, store.write_run("run", PLAN))
    ended: list[Any] = []
    with writing(store, writer, ended):
        wait_for(store, 2)
        assert store.run("run").dropped == frozenset()  # nobody follows yet
        for name in ("a", "b"):
            note_follower(store, "run", name, Follower(0))
        for unit in range(1, 11):
            note_follower(store, "run", "a", Follower(10))
            note_follower(store, "run", "b", Follower(unit))
            wait_for(store, min(unit + 2, 10))
            run = store.run("run")
            assert len(run.committed - run.dropped) <= 2 or unit == 10
            assert run.dropped <= set(range(unit))
    assert ended == [None]
    assert store.run("run").is_complete
    assert {name: each.unit for name, each in followers(store.run("run")).items()} == {
        "a": 10,
        "b": 10,
    }


def test_a_run_without_a_limit_is_left_alone(store: MemoryStore) -> None:
    """Its writer is what it was."""
    writer = store.write_run("run", a_plan())
    assert limited(store, writer) is writer
    assert units_held(a_plan()) is None
    assert units_held(a_plan(about={KEEP: "much"})) is None


def test_a_store_that_drops_nothing_has_no_limits() -> None:
    """It is said as an error, with the way out."""

    class Plain:
        location = "elsewhere"

    store = MemoryStore()
    writer = store.write_run("run", PLAN)
    expected = r"elsewhere cannot drop units .* Leave keep \(--keep\) out"
    with pytest.raises(CannotDrop, match=expected):
        limited(Plain(), writer)  # type: ignore[arg-type]


def test_units_do_not_wait_for_one_that_failed(store: MemoryStore) -> None:
    """They fail too, so that the one is tried again; then they are written."""
    writer = limited(store, store.write_run("run", PLAN))
    note_follower(store, "run", "a", Follower(0))
    with writer.open_unit(PLAN.unit(0)):
        pass  # left without being committed
    write(writer, [PLAN.unit(1)])
    with pytest.raises(UnitHeldBack, match=r"Unit 2 of run 'run' has no room .* unit 0"):
        writer.open_unit(PLAN.unit(2))
    write(writer, [PLAN.unit(0)])
    note_follower(store, "run", "a", Follower(1))
    write(writer, [PLAN.unit(2)])
    assert store.run("run").committed == {0, 1, 2}
    assert store.run("run").dropped == {0}


@pytest.mark.parametrize("is_followed", [False, True])
def test_it_is_said_for_whom_a_unit_waits(
    store: MemoryStore, is_followed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of those that are furthest behind; or that nobody follows."""
    monkeypatch.setattr("tenterhook_store.limited_writer.PATIENCE", -1.0)
    monkeypatch.setattr("time.sleep", lambda _: store.delete_run("run"))  # when it is said
    writer = limited(store, store.write_run("run", PLAN))
    expected = "and nobody follows it. It goes on once one does"
    if is_followed:
        note_follower(store, "run", "slow", Follower(1))
        note_follower(store, "run", "quick", Follower(2))
        expected = "waits for 'slow', still at unit 1. Start it again"
    with (
        pytest.warns(UserWarning, match=rf"holds 2 units at once \(keep\).*{expected}"),
        pytest.raises(DeletedRun, match="'run' is gone"),
    ):
        writer.open_unit(PLAN.unit(3))


def test_what_notes_no_follower_has_nothing_dropped(store: MemoryStore) -> None:
    """An attribute that somebody wrote by hand stops the writer."""
    writer = limited(store, store.write_run("run", PLAN))
    write(writer, [PLAN.unit(0), PLAN.unit(1)])
    note_follower(store, "run", "a", Follower(2))
    store.set_attribute("run", "follower-b", {"unit": -1})
    with pytest.raises(DamagedStore, match="'follower-b' of run run: it does not note a follower"):
        writer.open_unit(PLAN.unit(2))
    assert store.run("run").dropped == frozenset()


def test_unfollow(store: MemoryStore) -> None:
    """A run waits no longer for one; a name that does not follow is named with those that do."""
    store.write_run("run", PLAN)
    with pytest.raises(BadSetting, match="name='a' must be a follower's, and the run has none"):
        unfollow(store, "run", "a")
    note_follower(store, "run", "a", Follower(2))
    note_follower(store, "run", "b", Follower(0))
    with pytest.raises(BadSetting, match="name='c' must be one of a, b"):
        unfollow(store, "run", "c")
    unfollow(store, "run", "b")
    assert [*followers(store.run("run"))] == ["a"]


@pytest.mark.parametrize("name", ["", "a/b", 3, ".."])
def test_names_of_followers(name: Any) -> None:
    """They are names of attributes."""
    with pytest.raises(BadName, match="attribute"):
        check_follower_name(name)


def test_plans_with_a_limit_are_the_same_run() -> None:
    """The limit is no part of what identifies a run."""
    assert a_plan(rows=80).differences(PLAN) == []
    limit = a_plan(about={KEEP: 650})
    assert a_plan() == limit
    assert units_held(limit) == 2
