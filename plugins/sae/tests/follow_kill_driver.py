"""Kill who writes a run with a limit and who trains on it: run by a test; prints the kills of each.

`follow_kill_driver.py FOLDER COUNT`: in each round a process captures a run with a limit while
another trains on it. Both are killed (SIGKILL) at random moments and begun again, until each was
killed COUNT times in all. After each round the weights are those of a training on the whole run.
Meanwhile the run never holds more than its limit.
"""

import contextlib
import functools
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)  # so that it can fork

from tenterhook_capture import save_activations  # noqa: E402
from tenterhook_capture.testing.text_models import WordModel  # noqa: E402
from tenterhook_sae import RunBatches, TopKSae, TrainingSettings, load_sae, train_sae  # noqa: E402
from tenterhook_store import UnknownRun, followers  # noqa: E402
from tenterhook_store.limits import unit_bytes  # noqa: E402
from tenterhook_zarr import ZarrStore  # noqa: E402

LAYER = "blocks.0"
TEXTS = [" ".join(f"w{n}.{i}" for i in range(12)) for n in range(24)]
"""Of 288 tokens: 12 units."""
KEEP = 6200
"""In bytes: four units."""
HELD = 4


def capture(folder: Path, keep: int | None = KEEP) -> None:
    """Capture, or go on."""
    save_activations(
        WordModel(),
        LAYER,
        TEXTS,
        ZarrStore(folder / "store"),
        run_name="run",
        batch_size=2,
        rows_per_unit=24,
        keep=keep,
    )


def train(folder: Path, follow: str | None = "sae") -> None:
    """Train, or go on; batches begin in one unit and end in the next."""
    store = ZarrStore(folder / "store")
    while "run" not in store.runs():
        time.sleep(0.005)
    torch.manual_seed(0)
    sae = TopKSae(48, 12, 4)
    settings = TrainingSettings(steps=14, checkpoint_every=5, log_every=5, dead_after=100)
    batches = RunBatches(
        store.run("run"),
        LAYER,
        batch_size=20,
        seed=3,
        order="units",
        units_at_once=2,
        follow=follow,
    )
    train_sae(sae, batches, settings, out=folder / "sae")


def started(act: Callable[[], Any]) -> int:
    """Start it in a child; return the child."""
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the exit status says it
            traceback.print_exc()
            os._exit(1)
    return child


def look(folder: Path) -> None:
    """Check that a run holds no more than its limit."""
    with contextlib.suppress(UnknownRun):
        run = ZarrStore(folder / "store").run("run")
        places = [each.unit for each in followers(run).values()]
        there = run.committed - run.dropped
        # The last units of a run stay: nobody writes any more, and drops them.
        assert max(there, default=0) < min(places, default=0) + HELD, (there, places)
        shards = (folder / "store/runs/run/arrays/rows/token/c").glob("*")
        assert len([each for each in shards if not each.name.startswith(".")]) <= HELD + 1


def one_round(folder: Path, moments: dict[str, list[float]], killed: dict[str, int]) -> float:
    """Do a run and a training, and kill each after so many seconds, in turn; return how long."""
    acts: dict[str, Callable[[], Any]] = {
        "capture": functools.partial(capture, folder),
        "train": functools.partial(train, folder),
    }
    began = time.monotonic()
    running = {what: started(act) for what, act in acts.items()}
    due = {what: [began + each for each in sorted(times)] for what, times in moments.items()}
    while running:
        for what, child in [*running.items()]:
            if due[what] and time.monotonic() > due[what][0]:
                due[what].pop(0)
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            if os.WIFSIGNALED(status):
                killed[what] += 1
                running[what] = started(acts[what])
            else:
                assert status == 0, what
                del running[what]
        look(folder)
        time.sleep(0.02)
    return time.monotonic() - began


def check(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """Compare the weights with those of the whole run; look at what is left of it."""
    found = load_sae(folder / "sae").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected), folder
    store = ZarrStore(folder / "store")
    run = store.run("run")
    assert run.is_complete
    assert store.verify_run("run") == []
    assert len(run.dropped) >= 12 - HELD, run.dropped
    assert {name: each.unit for name, each in followers(run).items()} == {"sae": 12}


def kill(root: Path, count: int) -> dict[str, int]:
    """Kill each so often; return how often."""
    whole = root / "whole"
    capture(whole, keep=None)
    train(whole, follow=None)
    run = ZarrStore(whole / "store").run("run")
    assert HELD * unit_bytes(run.plan) <= KEEP < (HELD + 1) * unit_bytes(run.plan)
    expected = load_sae(whole / "sae").state_dict()
    killed = {"capture": 0, "train": 0}
    nobody: dict[str, list[float]] = {"capture": [], "train": []}
    length = one_round(root / "nobody", nobody, killed)
    check(root / "nobody", expected)
    chance = random.Random(0)
    tries = 0
    while min(killed.values()) < count:
        tries += 1
        assert tries < 10 * count + 20, "the processes end before they can be killed"
        moments = {
            what: [chance.uniform(0, length) for _ in range(2 if killed[what] < count else 0)]
            for what in killed
        }
        one_round(root / f"killed-{tries}", moments, killed)
        check(root / f"killed-{tries}", expected)
    return killed


if __name__ == "__main__":
    print(*kill(Path(sys.argv[1]), int(sys.argv[2])).values())
