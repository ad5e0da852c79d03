"""The engine of several processes on one machine, each with a model of its own.

What happens:

1. The factory of workers is pickled once, which loads model, data and store by name elsewhere.
2. As many processes are started as were asked for, each with one end of a pipe. They are new
   interpreters and no forks: threads of torch do not survive a fork.
3. A process makes its worker and says that it is ready. Only then is it given a unit, and the next
   one when it has told how that went; or, where the rows are written by a thread, once they are
   computed, so that an accelerator need not wait for a disk. It has two units at most.
4. A process that dies loses the unit that it had, and another takes its place while units are left.
   Of two units nobody knows which one killed it: both are done again, each alone.
5. At the end, and when the reader stops or an error is on its way, idle processes end by
   themselves and busy ones are told to: they discard the unit that they have begun.

A process ends, too, when this one is gone: it holds the other end of a pipe that is open as long
as this one lives. The other half is `process_worker`.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

import attrs

from tenterhook.errors import TenterhookError
from tenterhook_capture.engine import UnitDone, UnitEvent, UnitFailed, UnitLost, Worker
from tenterhook_capture.option_fields import option
from tenterhook_capture.units_left import UnitsLeft
from tenterhook_store import Unit

PATIENCE = 10.0
"""Seconds that a process has to discard its unit before it is killed."""

STARTS = 3
"""How many processes may die in a row before they are ready."""


class WorkersDied(TenterhookError, RuntimeError):
    """Processes die before they can do anything, as where memory does not hold their models."""


@attrs.frozen
class ProcessesEngine:
    """Has several processes of this machine do the units, each with a model of its own.

    With several accelerators process `i` sees the `i`-th as `cuda`, and again from the first.
    """

    has_processes: ClassVar[bool] = True
    """For `EngineContract`: its workers can be lost."""

    workers: int = option(2, help="How many processes.", group="Run", least=1)
    _pools: "set[_Pool]" = attrs.field(factory=set, init=False, eq=False, repr=False)
    """Those of the runs that are going on."""

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units, in any order; see `Engine.run`.

        Raises `WorkersDied`, and what making a worker raises.
        """
        if not units:
            return
        pool = _Pool(min(self.workers, len(units)), pickle.dumps(make_worker))
        self._pools.add(pool)
        try:
            yield from pool.do(units)
        finally:
            self._pools.discard(pool)
            pool.stop()

    def workers_alive(self) -> int:
        """Return how many processes there are; see `Engine`."""
        return sum(len(pool) for pool in self._pools)


class _Process:
    """One process, and the units that it has."""

    is_ready = False

    def __init__(self, rank: int, factory: bytes, alive: int) -> None:
        self.rank = rank
        self.units: deque[Unit] = deque()
        """In the order in which it was given them: one, or a second beside one being written."""
        self.pipe, theirs = Pipe()
        with theirs:
            fds = (theirs.fileno(), alive)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tenterhook_capture.process_worker", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for this process alone
                env={**os.environ, "LOCAL_RANK": str(rank)},
            )
        with contextlib.suppress(OSError):  # it is gone: the pipe says so
            self.pipe.send(sys.path)
            self.pipe.send_bytes(factory)

    def give(self, unit: Unit | None) -> None:
        """Have it do a unit; `None` where it asked for one and there is none."""
        if unit is not None:
            self.units.append(unit)
        with contextlib.suppress(OSError):
            self.pipe.send(unit)

    def death(self) -> str:
        """Say how it ended."""
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"process {self._process.pid} {how}"

    def end(self) -> None:
        """Have it end, at once where it has a unit or is making its worker."""
        self.pipe.close()
        if self.units or not self.is_ready:
            self._process.terminate()

    def wait(self, until: float) -> None:
        """Wait until it has ended; kill it when its time is over."""
        try:
            self._process.wait(max(until - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Pool:
    """The processes of one `run`."""

    def __init__(self, count: int, factory: bytes) -> None:
        self._factory = factory
        self._theirs, self._alive = os.pipe()
        """What they read, and what this process never writes to: it closes when it ends."""
        self._processes: list[_Process] = []
        self._died_early = 0
        self._alone = set[int]()
        """Units beside which a process has no other."""
        try:
            for rank in range(count):
                self._start(rank)
        except BaseException:
            self.stop()
            raise

    def _start(self, rank: int) -> None:
        self._processes.append(_Process(rank, self._factory, self._theirs))

    def __len__(self) -> int:
        return len(self._processes)

    def do(self, units: Sequence[Unit]) -> Iterator[UnitEvent]:
        """Hand out the units, and yield what becomes of them."""
        left = UnitsLeft(units)
        while left or any(each.units for each in self._processes):
            by_pipe = {each.pipe: each for each in self._processes}
            for pipe in wait(list(by_pipe)):
                assert isinstance(pipe, Connection)
                yield from self._hear(by_pipe[pipe], left)

    def _hear(self, process: _Process, left: UnitsLeft) -> list[UnitEvent]:
        """Take in what a process says, or that it is gone; hand it its next unit."""
        try:
            kind, what = process.pipe.recv()
        except (EOFError, OSError):
            return self._lost(process, left)
        if kind == "broken":
            raise what
        if kind == "more":
            is_alone = left and {left.first().number, process.units[0].number} & self._alone
            process.give(left.take() if left and not is_alone else None)
            return []
        process.is_ready, self._died_early = True, 0
        unit = process.units.popleft() if process.units else None
        if left and not process.units:
            process.give(left.take())
        if unit is None:
            return []
        return [UnitDone(unit, what) if kind == "done" else UnitFailed(unit, what)]

    def _lost(self, process: _Process, left: UnitsLeft) -> list[UnitEvent]:
        """Put another process in the place of one that is gone, while there is something to do."""
        self._processes.remove(process)
        process.pipe.close()
        how = process.death()
        if not process.is_ready:
            self._died_early += 1
            if self._died_early == STARTS:
                raise WorkersDied(
                    f"{STARTS} processes died one after the other before they were ready, the last "
                    f"so: {how}. If memory does not hold a model for each, ask for fewer workers."
                )
        is_clear = len(process.units) == 1
        if not is_clear:
            left.give_back(process.units)
            self._alone.update(unit.number for unit in process.units)
        if len(left) > sum(not each.units for each in self._processes):
            self._start(process.rank)
        return [UnitLost(unit, how) for unit in process.units] if is_clear else []

    def stop(self) -> None:
        """End all processes; returns when none is left."""
        for process in self._processes:
            process.end()
        until = time.monotonic() + PATIENCE
        for process in self._processes:
            process.wait(until)
        os.close(self._alive)
        os.close(self._theirs)


def as_sent(error: BaseException) -> BaseException:
    """Return an error as it can be sent to another process: itself, or one of the same words."""
    try:
        found: Any = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception may refuse in any way
        found = None
    if type(found) is type(error):
        return error
    return RuntimeError(f"{type(error).__qualname__}: {error}")
