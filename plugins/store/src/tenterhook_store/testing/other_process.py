"""What the contract has another process do with a store: `PICKLED_STORE add|commit|kill`.

To be killed it forks, which is quick; the process that forks never opens the store, for a store's
threads are not in its children.
"""

import functools
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tenterhook_store import Store
from tenterhook_store.testing.small_runs import a_plan, assert_whole, rows_of, write

EVENTS = ("open", "os.", "shutil.", "tempfile.", "mmap.")
"""How the audit events of what Python does with files begin."""


def add(pickled: Path) -> None:
    """Go on with the run that is there, and save a tensor."""
    store, plan = opened(pickled), a_plan()
    assert store.run("one").committed == {0}
    assert_whole(store.run("one"), rows=8)
    write(store.write_run("one", plan), plan.units()[1:])
    store.save_tensor("there", torch.ones(2))


def commit(pickled: Path) -> None:
    """Commit a unit, begin another, and be killed."""
    store, plan = opened(pickled), a_plan()
    writer = store.write_run("one", plan)
    with writer.open_unit(plan.unit(0)) as writing:
        writing.append(rows_of(plan, 0, 8))
        writing.keep("kept", torch.arange(3))
        writing.commit({})
    writer.open_unit(plan.unit(1)).append(rows_of(plan, 8, 12))
    os.kill(os.getpid(), signal.SIGKILL)


def kill(pickled: Path) -> None:
    """Be killed at steps that lie further and further apart; print how often."""
    torch.set_num_threads(1)  # so that it can fork
    kills, step = 0, 0
    while in_child(functools.partial(write_until, pickled, step)):
        run_id = f"killed-{step}"
        in_child(functools.partial(check_after_kill, pickled, run_id), wanted=0)
        in_child(functools.partial(resume, pickled, run_id), wanted=0)
        kills += 1
        step += 1 + step // 2
    sys.stdout.write(f"{kills}\n")


def write_until(pickled: Path, step: int) -> None:
    """Write a unit, then another, and be killed at its `step`-th thing with files.

    At 0 that is before its commit. Where there are fewer steps it ends, and leaves no run.
    """
    store, plan = opened(pickled), a_plan()
    run_id = f"killed-{step}"
    writer = store.write_run(run_id, plan)
    write(writer, plan.units()[:1])
    left = step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if left > 0 and event.startswith(EVENTS):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with writer.open_unit(plan.unit(1)) as writing:
        writing.append(rows_of(plan, 8, 12))
        writing.append(rows_of(plan, 12, 16))
        if not step:
            os.kill(os.getpid(), signal.SIGKILL)
        writing.commit({})
    left = 0
    store.delete_run(run_id)


def check_after_kill(pickled: Path, run_id: str) -> None:
    """See that of a run that was being written whole units are there, and nothing else."""
    store = opened(pickled)
    run = store.run(run_id)
    assert run.committed in ({0}, {0, 1}), run.committed
    assert_whole(run, rows=8 * len(run.committed))
    assert store.verify_run(run_id) == [], store.verify_run(run_id)


def resume(pickled: Path, run_id: str) -> None:
    """Write what is missing of a run."""
    store = opened(pickled)
    writer = store.write_run(run_id, a_plan())
    done = writer.committed()
    write(writer, [unit for unit in a_plan().units() if unit.number not in done])
    writer.finish()
    assert_whole(store.run(run_id))


def opened(pickled: Path) -> Store:
    """Open the store."""
    store: Store = pickle.loads(pickled.read_bytes())
    return store


def in_child(act: Callable[[], object], wanted: int | None = None) -> int:
    """Do it in a child; return the signal that killed it, 0 where it ended well.

    Ends this process where the child failed, or did not end as wanted; the child has said why.
    """
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the exit status says it
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if (os.WIFEXITED(status) and os.WEXITSTATUS(status)) or wanted not in (None, ended):
        sys.exit(1)
    return ended


if __name__ == "__main__":
    {"add": add, "commit": commit, "kill": kill}[sys.argv[2]](Path(sys.argv[1]))
