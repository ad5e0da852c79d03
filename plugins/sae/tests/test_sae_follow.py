"""Training on a run while it is written, in an order that the whole run gives too."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tenterhook_capture import BadArgument, save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_cli.command_line import cli
from tenterhook_sae import (
    BadSetting,
    NoRows,
    RunBatches,
    Sae,
    TopKSae,
    TrainingSettings,
    train_sae,
    train_saes,
)
from tenterhook_store import (
    CannotDrop,
    DroppedRows,
    Follower,
    LocalStore,
    MemoryStore,
    OtherLoader,
    OtherRun,
    Run,
    Store,
    followers,
    open_store,
    unfollow,
)
from tenterhook_store.following import note_follower
from tenterhook_store.testing.small_runs import a_plan, write

LAYER = "blocks.0"
TEXTS = [" ".join(f"w{n}.{i}" for i in range(12)) for n in range(20)]
"""Of 240 tokens: ten units, whose rows are 1,536 bytes each."""


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may have them wait long; nothing is said of it."""
    monkeypatch.setattr("tenterhook_store.limited_writer.PATIENCE", 1e9)
    monkeypatch.setattr("tenterhook_sae.unit_order.PATIENCE", 1e9)


def capture(
    store: Store, keep: int | str | None = None, model: WordModel | None = None, **more: Any
) -> Run:
    """Capture, or go on."""
    settings: dict[str, Any] = {"run_name": "run", "batch_size": 2, "rows_per_unit": 24}
    save_activations(
        model or WordModel(), LAYER, TEXTS, store, **{**settings, "keep": keep, **more}
    )
    return store.run("run")


@contextmanager
def capturing(store: Store, keep: int | str) -> Iterator[Run]:
    """A block in which a thread captures, and is waited for at the end."""
    failed: list[BaseException] = []
    model = WordModel()  # not in the thread: random numbers are one sequence for all of them

    def act() -> None:
        try:
            capture(store, keep, model)
        except BaseException as error:  # noqa: BLE001 - it is raised in the end
            failed.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    while "run" not in store.runs() and thread.is_alive():
        threading.Event().wait(0.002)
    try:
        yield store.run("run")
    except BaseException:
        store.delete_run("run")  # so that nobody waits
        raise
    finally:
        thread.join()
    assert not failed, failed


def an_sae(k: int = 4) -> Sae:
    """Return an SAE that fits the layer."""
    torch.manual_seed(0)
    return TopKSae(48, 12, k)


def settings(steps: int = 15, every: int = 1000) -> TrainingSettings:
    """Return settings of a short training."""
    return TrainingSettings(steps=steps, checkpoint_every=every, dead_after=100)


def same(one: Sae, other: Sae) -> bool:
    """Say whether two SAEs have the same weights, to the bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(("batch", "at_once"), [(16, 1), (24, 1), (20, 2), (96, 1), (7, 3)])
def test_the_order_of_units(batch: int, at_once: int) -> None:
    """Every row comes once an epoch, block after block, each epoch in another order; any batch can
    be gone on from."""
    plan = a_plan(rows=240, rows_per_unit=24, layers=(("x", 2, "float32"), ("y", 1, "float32")))
    store = MemoryStore()
    write(store.write_run("run", plan), plan.units())
    run = store.run("run")
    order: dict[str, Any] = {"order": "units", "units_at_once": at_once, "seed": 5}
    batches = RunBatches(run, ["x", "y"], batch_size=batch, **order)
    stream, count = iter(batches), 240 // batch
    epochs = []
    states = []
    for _ in range(2):
        states.append(batches.state_dict())
        epochs.append(torch.cat([next(stream) for _ in range(count)]))
    places = [(epoch[:, 0] / 100).int().tolist() for epoch in epochs]
    for seen in places:
        assert len(set(seen)) == len(seen) == count * batch
        blocks = [each // (24 * at_once) for each in seen]
        assert blocks == sorted(blocks)
    assert places[0] != places[1] != [*range(count * batch)]
    again = RunBatches(run, ["x", "y"], batch_size=batch, **order)
    again.load_state_dict(states[1])
    assert torch.equal(next(iter(again)), epochs[1][:batch])
    order["units_at_once"] += 1
    other = RunBatches(run, ["x", "y"], batch_size=batch, **order)
    with pytest.raises(OtherLoader, match="units_at_once is"):
        other.load_state_dict(states[1])


def test_training_while_capturing(tmp_path: Path) -> None:
    """The weights are those of a training on the whole run, and the run holds its limit."""
    store = LocalStore(tmp_path / "store")
    whole = capture(MemoryStore())
    order: dict[str, Any] = {"batch_size": 16, "seed": 3}
    expected = train_sae(an_sae(), RunBatches(whole, LAYER, order="units", **order), settings())
    with capturing(store, 3200) as run:
        assert len(run.committed) <= 2
        batches = RunBatches(run, LAYER, follow="one", **order)
        found = train_sae(an_sae(), batches, settings(), out=tmp_path / "sae")
    assert same(found, expected)
    run = store.run("run")
    assert run.is_complete
    assert len(run.committed - run.dropped) <= 2
    assert followers(run)["one"].unit == 10
    assert store.verify_run("run") == []
    again = train_sae(
        an_sae(), RunBatches(run, LAYER, follow="one", **order), settings(), out=tmp_path / "sae"
    )
    assert same(again, expected)  # it is done, and asks for no row
    with pytest.raises(NoRows, match="whose first units were dropped, holds no rows"):
        RunBatches(run, LAYER)
    with pytest.raises(DroppedRows, match="keep=3200"):
        run[LAYER][0]


def test_several_trainings_that_follow(tmp_path: Path) -> None:
    """From one pass, each with its own number of steps; two passes, of which the run waits for the
    slower."""
    whole = RunBatches(capture(MemoryStore()), LAYER, batch_size=24, order="units")
    steps = {"a": settings(10, 3), "b": settings(7, 2)}
    expected = train_saes({"a": an_sae(), "b": an_sae(3)}, whole, steps)
    store = LocalStore(tmp_path / "store")
    with capturing(store, "3.2kB") as run:
        # Both are noted before either begins, so that neither is too late.
        for name in ("one", "two"):
            batches = RunBatches(run, LAYER, batch_size=24, follow=name)
            assert batches.follower is not None
            batches.follower.begin()

        found = {name: {"a": an_sae(), "b": an_sae(3)} for name in ("one", "two")}

        def follow(name: str) -> None:
            batches = RunBatches(run, LAYER, batch_size=24, follow=name)
            train_saes(found[name], batches, steps, out=tmp_path / name)

        # Side by side: one after the other would wait for ever.
        threads = [threading.Thread(target=follow, args=(name,)) for name in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in ("one", "two"):
        assert all(same(found[name][each], expected[each]) for each in expected)


def test_what_cannot_be_followed(tmp_path: Path) -> None:
    """Each mistake is said before a row is read, or dropped."""
    store = MemoryStore()
    whole = capture(MemoryStore())
    with pytest.raises(BadSetting, match="order='rows' must be 'shuffled' or 'units'"):
        RunBatches(whole, LAYER, order="rows")  # type: ignore[arg-type]
    with pytest.raises(BadSetting, match="must be a slice from the first row on, with order='unit"):
        RunBatches(whole, LAYER, order="units", rows=slice(5, 9))
    with pytest.raises(BadSetting, match=r"must be left out where a run is followed \(follow\)"):
        RunBatches(whole, LAYER, follow="a", rows=slice(0, 9))
    with pytest.raises(BadSetting, match="units_at_once=0"):
        RunBatches(whole, LAYER, order="units", units_at_once=0)
    batches = RunBatches(whole, LAYER, batch_size=24, follow="a")
    with pytest.raises(BadSetting, match="steps=11 must be 10 or fewer: whoever follows a run rea"):
        train_sae(an_sae(), batches, settings(11), out=tmp_path / "sae")
    with pytest.raises(BadSetting, match="out=None must be a folder: who follows a run notes"):
        train_sae(an_sae(), batches, settings(10))
    assert followers(whole) == {}
    train_sae(an_sae(), batches, settings(10), out=tmp_path / "sae")  # a run without a limit, too
    assert followers(whole) == {"a": Follower(10, {"layers": [LAYER], **_order()})}
    other = RunBatches(whole, LAYER, batch_size=16, follow="a")
    with pytest.raises(BadSetting, match="another name: 'a' follows run 'run' already, and reads"):
        train_sae(an_sae(), other, settings(5), out=tmp_path / "other")

    with capturing(store, 3200) as run:
        with pytest.raises(
            BadSetting, match="batch_size=60 must be such that, with units_at_once=1, the run holds"
        ):
            RunBatches(run, LAYER, batch_size=60, follow="b")
        batches = RunBatches(run, LAYER, batch_size=24, follow="b")
        train_sae(an_sae(), batches, settings(10), out=tmp_path / "b")
    late = RunBatches(run, LAYER, batch_size=24, follow="c")
    with pytest.raises(DroppedRows, match="Row 0 is of unit 0"):
        train_sae(an_sae(), late, settings(10), out=tmp_path / "c")
    assert [*followers(store.run("run"))] == ["b"]
    anew = RunBatches(run, LAYER, batch_size=24, follow="b")
    with pytest.raises(DroppedRows, match="Row 0 is of unit 0"):
        train_sae(an_sae(), anew, settings(10), out=tmp_path / "anew")


def test_it_is_said_what_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that does not come, as of a run that nobody writes."""
    monkeypatch.setattr("tenterhook_sae.unit_order.PATIENCE", 0.01)
    plan = a_plan(rows=240, rows_per_unit=24, layers=(("x", 12, "float32"),))
    store = MemoryStore()
    store.write_run("run", plan)
    batches = RunBatches(store.run("run"), "x", batch_size=24, follow="a")
    with pytest.raises(UserWarning, match="Waiting for unit 0 of run 'run', which is not there"):
        train_sae(an_sae(), batches, settings(10), out=tmp_path / "sae")


def _order() -> dict[str, Any]:
    return {
        "order": "units",
        "rows": [0, 240],
        "rows_per_unit": 24,
        "units_at_once": 1,
        "batch_size": 24,
        "seed": 0,
    }


def test_limits_that_cannot_be(tmp_path: Path) -> None:
    """They are said before a run is made; a run goes on with the limit it was begun with."""
    store = LocalStore(tmp_path / "store")
    with pytest.raises(BadArgument, match="keep=1000 must be 1536 or more, the bytes of one unit"):
        capture(store, 1000)
    with pytest.raises(BadArgument, match=r"keep='much' must be a number of bytes, as 200MB"):
        capture(store, "much")
    with pytest.raises(BadArgument, match="must be left out, or 'local', for a run with a limit"):
        capture(store, 3200, engine="processes")
    with pytest.raises(BadArgument, match=r"keep=3200 must be left out where no rows are kept"):
        capture(store, 3200, reduce="mean")
    plain: Any = _Plain()
    with pytest.raises(CannotDrop, match="elsewhere cannot drop units"):
        capture(plain, 3200)
    assert store.runs() == []
    capture(store, 50_000)
    with pytest.raises(OtherRun, match="keep is 50000 there and None here"):
        capture(store)
    with pytest.raises(OtherRun, match="keep is 50000 there and 60000 here"):
        capture(store, 60_000)
    assert len(capture(store, "50kB")) == 240


class _Plain:
    """A store of somebody who knows no limits."""

    location = "elsewhere"

    def __init__(self) -> None:
        self._store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if name == "drop_unit":
            raise AttributeError(name)
        return getattr(self._store, name)


def test_commands(tmp_path: Path) -> None:
    """`sae train --follow` trains on a run that is being written; `runs` say what became of it."""
    place = str(tmp_path / "store")
    store = open_store(place)

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, list(words))
        assert done.exit_code == 0, done.output
        return done.output

    out = str(tmp_path / "sae")
    train = ["sae", "train", place, "run", LAYER, "--out", out, "--follow", "one"]
    train += ["--batch-size", "24", "--latents", "48", "--k", "4"]
    with capturing(store, 3200):
        assert "it waits once it is full" in run("runs", "status", place)
        note_follower(store, "run", "two", Follower(0))
        said = ""
        while "waits for it" not in said:
            said = run("runs", "status", place)
        assert "limit 3.2 kB: 0 units dropped" in said
        assert "follower two: at unit 0, and the run waits for it" in said
        (state,) = json.loads(run("runs", "status", place, "--json"))
        assert (state["keep"], state["followers"]) == (3200, {"two": 0})
        assert state["waits_for"] == ["two"]
        assert "Would train" in run(*train, "--dry-run")
        assert [*followers(store.run("run"))] == ["two"]
        batches = RunBatches(store.run("run"), LAYER, batch_size=24, follow="one")
        assert batches.follower is not None
        batches.follower.begin()  # before the other is out of the way
        unfollow(store, "run", "two")
        run(*train)
    verified = run("runs", "verify", place)
    assert re.search("10 of 10 units, [89] dropped, 0 problems", verified), verified
    status = run("runs", "status", place)
    assert "240 of 240 rows" in status
    assert re.search("limit 3.2 kB: [89] units dropped", status), status
    assert "follower one: done" in status
    shown = run("runs", "show", place)
    for line in ("limit +3.2 kB", "dropped +units 0-[78]", "follower +one, done"):
        assert re.search(line, shown), shown
    refused = CliRunner().invoke(cli, [*train, "--hold-out", "0.1"])
    assert refused.exit_code == 2
    assert "leave --hold-out out" in refused.output
