"""What a process of `ProcessesEngine` runs: makes its worker, and does the units it is given.

It ends when there are no more, when it is told to (SIGTERM, which discards the unit it has), and
when the process that started it is gone.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn

_GRACE = 10.0
"""Seconds to discard a unit in, once the process that started this one is gone."""


def _end(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _follow(wait_for_end: Callable[[], object]) -> None:
    """End when the process that started this one does, however it ends."""
    wait_for_end()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE)
    os._exit(1)


def main(pipe: Connection, alive: int) -> None:
    """Do units until there are no more."""
    # Nobody writes: it returns when the other end is closed.
    work_for(pipe, lambda: os.read(alive, 1))


def work_for(pipe: Connection, wait_for_end: Callable[[], object]) -> None:
    """Do the units that come by a pipe until there are no more.

    First come the folders that modules are imported from, and a pickled factory of workers.
    `wait_for_end` returns when whoever sends them is gone.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what is printed is no output of the command
    threading.Thread(target=_follow, args=(wait_for_end,), daemon=True).start()
    try:
        sys.path[:] = pipe.recv() or sys.path
        factory = pipe.recv_bytes()
        _work(pipe, factory)
    except (EOFError, OSError):  # there are no more, or nobody hears
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already


def _work(pipe: Connection, factory: bytes) -> None:
    import pickle

    try:
        worker = pickle.loads(factory)()
    except Exception as error:  # noqa: BLE001 - it is raised where the engine runs
        pipe.send(("broken", _told(error)))
        return
    pipe.send(("ready", None))
    while True:
        unit = pipe.recv()
        try:
            told: tuple[str, Any] = "done", dict(worker(unit))
        except Exception as error:  # noqa: BLE001 - it is in the event
            told = "failed", _told(error)
        pipe.send(told)


def _told(error: Exception) -> BaseException:
    from tenterhook_capture.processes import as_sent

    sent = as_sent(error)
    sent.add_note("In a process of the engine:\n" + "".join(traceback.format_exception(error)))
    return sent


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
