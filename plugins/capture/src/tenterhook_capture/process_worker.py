"""What a process of `ProcessesEngine` runs: makes its worker, and does the units it is given.

It ends when there are no more, when it is told to (SIGTERM, which discards the unit it has), and
when the process that started it is gone.
"""

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, NoReturn

_GRACE = 10.0
"""Seconds to discard a unit in, once the process that started this one is gone."""


def _end(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _follow(alive: int) -> None:
    """End when the process that started this one does, however it ends."""
    os.read(alive, 1)  # nobody writes: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE)
    os._exit(1)


def main(pipe: Connection, alive: int) -> None:
    """Do units until there are no more."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what is printed is no output of the command
    threading.Thread(target=_follow, args=(alive,), daemon=True).start()
    try:
        sys.path[:] = pipe.recv()
        factory = pipe.recv_bytes()
        _work(pipe, factory)
    except (EOFError, BrokenPipeError):  # there are no more, or nobody hears
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
