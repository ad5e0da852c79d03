"""What a process of `ProcessesEngine` runs: makes its worker, and does the units it is given.

It ends when there are no more, when it is told to (SIGTERM, which discards the units it has), and
when the process that started it is gone.

Where a worker has `start`, as that of a capture, and whoever sends units has asked for it, a unit
is computed while the one before it is written: see `_Ahead`.
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
    work_for(pipe, lambda: os.read(alive, 1), ahead=True)


def work_for(pipe: Connection, wait_for_end: Callable[[], object], *, ahead: bool = False) -> None:
    """Do the units that come by a pipe until there are no more.

    First come the folders that modules are imported from, and a pickled factory of workers.
    `wait_for_end` returns when whoever sends them is gone. With `ahead` whoever sends them takes a
    `"more"` for an answer.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what is printed is no output of the command
    threading.Thread(target=_follow, args=(wait_for_end,), daemon=True).start()
    try:
        sys.path[:] = pipe.recv() or sys.path
        factory = pipe.recv_bytes()
        _work(pipe, factory, ahead)
    except (EOFError, OSError):  # there are no more, or nobody hears
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already


def _work(pipe: Connection, factory: bytes, ahead: bool) -> None:
    import pickle

    try:
        worker = pickle.loads(factory)()
    except Exception as error:  # noqa: BLE001 - it is raised where the engine runs
        pipe.send(("broken", _told(error)))
        return
    pipe.send(("ready", None))
    if ahead and hasattr(worker, "start"):
        _Ahead(pipe, worker.start).work()
    while True:
        unit = pipe.recv()
        pipe.send(_outcome(lambda: worker(unit)))  # noqa: B023 - called at once


class _Ahead:
    """Computes a unit while the one before it is written.

    Once a unit is computed and not written yet, `"more"` asks for another; `None` says that there
    is none. Units are told of in the order in which they came.
    """

    def __init__(self, pipe: Connection, start: Callable[[Any], Any]) -> None:
        self._pipe = pipe
        self._start = start
        self._before: Any = None
        """The unit that is being written, a `Pending`."""

    def work(self) -> None:
        """Do units until there are no more, which is an `EOFError`."""
        try:
            while True:
                self._do(self._pipe.recv())
        finally:
            if self._before is not None:
                self._before.cancel()

    def _do(self, unit: Any) -> None:
        if unit is None:
            self._settle()
            return
        try:
            started = self._start(unit)
        except Exception as error:  # noqa: BLE001 - it is in the event
            self._settle()
            self._pipe.send(("failed", _told(error)))
            return
        self._settle(started)
        if started.ready():
            self._settle()
        else:
            self._pipe.send(("more", None))

    def _settle(self, started: Any = None) -> None:
        """Wait for the unit before, and tell of it."""
        before, self._before = self._before, started
        if before is None:
            return
        try:
            told = _outcome(before.result)
        except BaseException:
            before.cancel()
            raise
        self._pipe.send(told)


def _outcome(finish: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "done", dict(finish())
    except Exception as error:  # noqa: BLE001 - it is in the event
        return "failed", _told(error)


def _told(error: Exception) -> BaseException:
    from tenterhook_capture.processes import as_sent

    sent = as_sent(error)
    sent.add_note("In a process of the engine:\n" + "".join(traceback.format_exception(error)))
    return sent


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
