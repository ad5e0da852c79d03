"""The engine of tasks in Slurm: processes on the nodes of a cluster, each with a model of its own.

What happens:

1. This process listens on a port, and submits an array job of as many tasks as were asked for.
2. A task that Slurm has begun connects to the port, is sent the pickled factory of workers, makes
   its worker and says that it is ready. Only then is it given a unit, and the next one when it has
   told how that went. So a slow node does fewer, and tasks that wait in the queue hold nothing up.
3. A task that dies loses the unit that it had. Its connection says so, or Slurm does, where a whole
   node is gone. Another is submitted in its place while units are left.
4. At the end, and when the reader stops or an error is on its way, connections are closed, which
   ends the tasks at work; what waits in the queue is cancelled, and so is what has not ended soon.

Where this process is killed its connections close, too: tasks end, and those that still wait end
when they begin and find nobody. The other half is `slurm_worker`, what is between `slurm_wire`.
"""

import contextlib
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import ClassVar

import attrs

from tenterhook.errors import TenterhookError
from tenterhook_capture.engine import UnitDone, UnitEvent, UnitFailed, UnitLost, Worker
from tenterhook_capture.option_fields import option
from tenterhook_capture.slurm_job import (
    SlurmJob,
    SlurmOptions,
    SlurmRefused,
    bash_word,
    check_installed,
    interrupts_held,
    text_option,
)
from tenterhook_capture.slurm_wire import Door
from tenterhook_capture.slurm_worker import KEY
from tenterhook_capture.units_left import UnitsLeft
from tenterhook_store import Unit

LOOK = 10.0
"""Seconds between two looks at what Slurm says of the tasks."""

SOON = 1.0
"""Seconds between two looks while a task has begun and not arrived, or seems to be over."""

AGAIN = 60.0
"""Seconds until Slurm is asked again for tasks that it refused, while others are at work."""

PATIENCE = 5.0
"""Seconds that tasks have to end by themselves before they are cancelled."""

ENDS = 60.0
"""Seconds that Slurm has to end what is cancelled before we go."""

TOLD = 3.0
"""Seconds that Slurm has to say how a task ended."""

STARTS = 3
"""How many tasks may end in a row before they are ready."""


@attrs.define(slots=False)
class TasksEnded(TenterhookError, RuntimeError):
    """Tasks of Slurm end before they can do anything."""

    ending: str
    """How the last of them ended."""
    host: str
    port: int
    logs: str | None

    def __str__(self) -> str:
        read = (
            f"Read in {self.logs} what they printed"
            if self.logs
            else ("Keep what they print by --slurm-logs FOLDER, and read it")
        )
        return (
            f"{STARTS} tasks ended one after the other before they were ready, the last so: "
            f"{self.ending}. {read}. They need this machine's Python and packages "
            "(--slurm-python, --slurm-setup), memory for a model each (--slurm-mem), and must "
            f"reach {self.host}, port {self.port} (--slurm-address); where nodes cannot reach "
            "this machine, `tenterhook submit` needs no connection."
        )


@attrs.frozen(kw_only=True)
class SlurmEngine(SlurmOptions):
    """Has tasks of a Slurm job do the units, on whichever nodes Slurm gives.

    This process stays where it is, and hands out units; it needs no node of its own.
    """

    has_processes: ClassVar[bool] = True
    """For `EngineContract`: its workers can be lost."""

    workers: int = option(2, help="How many tasks.", group="Run", least=1)
    address: str | None = text_option(
        "The name or address under which nodes reach this machine; its host name, unless given."
    )

    _pools: list["_Pool"] = attrs.field(init=False, factory=list, eq=False, repr=False)
    """Those of the runs that are going on."""

    def check_here(self) -> None:
        """See that Slurm's commands are there; raises `SlurmMissing`."""
        check_installed()

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units, in any order; see `Engine.run`.

        Raises `SlurmMissing`, `SlurmRefused`, `TasksEnded`, and what making a worker raises.
        """
        if not units:
            return
        pool = _Pool(self, min(self.workers, len(units)), pickle.dumps(make_worker))
        self._pools.append(pool)
        try:
            yield from pool.do(units)
        finally:
            self._pools.remove(pool)
            pool.stop()

    def workers_alive(self) -> int:
        """Return how many tasks are at work; see `Engine`."""
        return sum(pool.at_work() for pool in self._pools)


class _Task:
    """A task that was submitted, and the unit that it has."""

    pipe: Connection | None = None
    """`None` until it has arrived."""
    unit: Unit | None = None
    is_ready = False
    is_running = False
    """Whether Slurm says that it has begun."""
    seen_over = 0
    """How often Slurm said that it is over, or knew nothing of it, while we had no word of it."""

    def __init__(self, job: SlurmJob, number: int) -> None:
        self.job, self.number = job, number

    def give(self, unit: Unit) -> None:
        """Have it do a unit."""
        assert self.pipe is not None
        self.unit = unit
        with contextlib.suppress(OSError):  # it is gone: the pipe says so
            self.pipe.send(unit)

    def ending(self) -> str:
        """Say how it ended; waits a little until Slurm knows."""
        until = time.monotonic() + TOLD
        while (found := self.job.ending(self.number)).endswith("gone"):
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        return found

    def close(self) -> None:
        """Have it end: it discards the unit that it has."""
        if self.pipe is not None:
            self.pipe.close()


class _Pool:
    """The tasks of one `run`."""

    def __init__(self, engine: SlurmEngine, count: int, factory: bytes) -> None:
        self._engine, self._count, self._factory = engine, count, factory
        self._tasks: dict[tuple[str, int], _Task] = {}
        """Those that are not gone, by job and number."""
        self._jobs: list[SlurmJob] = []
        self._ended_early = 0
        self._next_look = self._next_submit = 0.0
        self._host = engine.address or socket.gethostname()
        self._door = Door()
        try:
            self._submit(count)
        except BaseException:
            self.stop()
            raise

    def _submit(self, count: int) -> None:
        script = self._engine.script(
            "tenterhook_capture.slurm_worker",
            [bash_word(self._host), str(self._door.port)],
            array=f"0-{count - 1}",
            name="tenterhook",
            more=["--no-requeue", f"--output={self._output()}"],  # we submit anew what is lost
            variables={KEY: self._door.key},
        )
        with interrupts_held():
            job = SlurmJob.submit(script)
            self._jobs.append(job)
        self._next_look = time.monotonic() + SOON  # a job that cannot begin is seen at once
        self._tasks |= {(job.id, number): _Task(job, number) for number in range(count)}

    def _output(self) -> str:
        logs = self._engine.logs
        return "/dev/null" if logs is None else f"{logs}/tenterhook-%A_%a.out"

    def do(self, units: Sequence[Unit]) -> Iterator[UnitEvent]:
        """Hand out the units, and yield what becomes of them."""
        left = UnitsLeft(units)
        while left or any(task.unit is not None for task in self._tasks.values()):
            by_pipe = {task.pipe: task for task in self._tasks.values() if task.pipe is not None}
            waits = max(self._next_look - time.monotonic(), 0)
            for pipe in wait([self._door.bell, *by_pipe], waits):
                if pipe is self._door.bell:
                    self._let_in(self._door.arrived())
                    continue
                assert isinstance(pipe, Connection)
                event = self._hear(by_pipe[pipe], left)
                if event is not None:
                    yield event
            if time.monotonic() >= self._next_look:
                yield from self._look()
            self._replace(left)

    def _let_in(self, pipe: Connection) -> None:
        """Take in a task that has arrived, and send it what it needs."""
        with contextlib.suppress(EOFError, OSError):  # it is gone: Slurm says so
            job, number, _ = pipe.recv()
            task = self._tasks.get((job, number))
            if task is None or task.pipe is not None:
                pipe.close()  # we gave it up
                return
            task.pipe = pipe
            pipe.send([] if self._engine.python else sys.path)
            pipe.send_bytes(self._factory)

    def _hear(self, task: _Task, left: UnitsLeft) -> UnitEvent | None:
        """Take in what a task says, or that it is gone; hand it its next unit."""
        assert task.pipe is not None
        try:
            kind, what = task.pipe.recv()
        except (EOFError, OSError):
            return self._lost(task)
        if kind == "broken":
            raise what
        task.is_ready, self._ended_early = True, 0
        unit, task.unit = task.unit, None
        if left:
            task.give(left.take())
        if unit is None:
            return None
        return UnitDone(unit, what) if kind == "done" else UnitFailed(unit, what)

    def _look(self) -> Iterator[UnitEvent]:
        """Ask Slurm which tasks are over that have not said so themselves."""
        states = {job.id: job.states() for job in self._jobs}
        for (job, number), task in [*self._tasks.items()]:
            known = states[job]
            if known is None:
                continue
            state = known.get(number)
            if state is not None and not state.is_over:
                task.seen_over, task.is_running = 0, state.state != "PENDING"
                continue
            task.seen_over += 1
            # Twice, for what it said before it ended may be on its way.
            if task.seen_over > 1 and (event := self._lost(task)) is not None:
                yield event
        doubts = any(
            task.seen_over or (task.is_running and task.pipe is None)
            for task in self._tasks.values()
        )
        self._next_look = time.monotonic() + (SOON if doubts else LOOK)

    def _lost(self, task: _Task) -> UnitEvent | None:
        """Give up a task that is gone."""
        del self._tasks[task.job.id, task.number]
        task.close()
        how = task.ending()
        if not task.is_ready:
            self._ended_early += 1
            if self._ended_early == STARTS:
                raise TasksEnded(how, self._host, self._door.port, self._engine.logs)
        return None if task.unit is None else UnitLost(task.unit, how)

    def _replace(self, left: UnitsLeft) -> None:
        """Submit as many tasks as are gone, where there is something to do for them."""
        idle = sum(task.unit is None for task in self._tasks.values())  # or in the queue
        missing = min(self._count - len(self._tasks), len(left) - idle)
        if missing <= 0 or time.monotonic() < self._next_submit:
            return
        try:
            self._submit(missing)
        except SlurmRefused:
            if not self._tasks:
                raise
            self._next_submit = time.monotonic() + AGAIN  # the others go on meanwhile

    def at_work(self) -> int:
        """Return how many tasks are ready, or at a unit."""
        return sum(task.is_ready for task in self._tasks.values())

    def stop(self) -> None:
        """End all tasks; returns when none is left, or Slurm does not end them in a minute."""
        for task in self._tasks.values():
            task.close()
        self._door.close()
        try:
            for job in self._jobs:
                job.cancel(pending=True)
            _wait(self._jobs, PATIENCE)
        finally:
            left = [job for job in self._jobs if _is_at_work(job)]
            for job in left:
                job.cancel()
        _wait(left, ENDS)


def _is_at_work(job: SlurmJob) -> bool:
    states = job.states()
    return states is None or any(not state.is_over for state in states.values())


def _wait(jobs: Sequence[SlurmJob], seconds: float) -> None:
    """Wait until jobs are over, at most so long."""
    until, rest = time.monotonic() + seconds, 0.1
    while any(map(_is_at_work, jobs)) and time.monotonic() < until:
        time.sleep(rest)
        rest = min(rest * 1.5, 2.0)
