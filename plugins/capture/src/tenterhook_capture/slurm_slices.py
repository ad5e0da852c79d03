"""A run done by an array job of Slurm, each task a slice of the plan: `tenterhook submit`.

Tasks need the store and nothing else: no connection to whoever submitted them, who may go. Who
stays looks at the store and at Slurm from time to time, and submits again what a job has left
undone, a few times. From the second time on each task does its units in a process of its own, so
that a unit which kills whoever does it is found and named, and the rest of its slice is done.
"""

import bisect
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from tenterhook.errors import TenterhookError
from tenterhook_capture.errors import NotRebuildable, UnitsFailed
from tenterhook_capture.progress import Progress, ProgressCallback
from tenterhook_capture.recipe import CaptureRecipe
from tenterhook_capture.session import how_to_resume
from tenterhook_capture.slurm_job import (
    SlurmJob,
    SlurmOptions,
    TaskState,
    array_of,
    bash_word,
    interrupts_held,
)
from tenterhook_capture.status import run_status
from tenterhook_store import Run, Store

LOOK = 10.0
"""Seconds between two looks at most, once a job has gone on for a while."""

ENDS = 60.0
"""Seconds that Slurm has to end what is cancelled."""


@attrs.define(slots=False)
class NotShared(TenterhookError, ValueError):
    """A store that other machines cannot reach."""

    location: str

    def __str__(self) -> str:
        return (
            f"Store {self.location!r} is in the memory of one process, where no other node reaches "
            "it. Name a folder that every node sees, or the URL of an object store."
        )


@attrs.define(slots=False)
class SlicesEnded(TenterhookError, RuntimeError):
    """No task of a job began its work."""

    ending: str
    """How one of them ended."""
    said: str
    """The last that it printed, if that can be read."""

    def __str__(self) -> str:
        said = f" It said: {self.said}" if self.said else ""
        return (
            f"No task began its work: {self.ending}.{said} Tasks need the Python and the packages "
            "of this machine (--python, --setup), and must see the store, the model and the data."
        )


@attrs.frozen(kw_only=True)
class SlicedRun:
    """A run, and how its slices are to be done by tasks of Slurm.

    Raises `NotRebuildable` for a run made from what has no name, `NotShared` for a store in memory.
    """

    store: Store
    run_id: str
    tasks: int = 2
    """Into how many slices it is cut; no more than it has units."""
    options: SlurmOptions = attrs.field(factory=SlurmOptions)
    tries: int = 3
    """How often a unit is tried in all."""
    processes: int | None = None
    """In how many processes of its own each task does its units; `None` for none."""
    places: dict[str, str] = attrs.field(factory=dict)
    """Where the nodes have `model` and `data`, the `field` of its records, and the `device`."""

    def __attrs_post_init__(self) -> None:
        if self.store.location.startswith(("memory:", "in memory")):
            raise NotShared(self.store.location)
        recipe = CaptureRecipe.of_run(self.run()).elsewhere(**self.places)
        if recipe.unnamed:
            raise NotRebuildable(self.run_id, recipe.unnamed)

    def run(self) -> Run:
        """Open the run as it is by now."""
        return self.store.run(self.run_id)

    def slices(self, units: Iterable[int]) -> list[int]:
        """Return which slices units are of, rising; holds no list of the units."""
        return sorted(set(map(self._slice_of(self.run()), units)))

    def _slice_of(self, run: Run) -> Callable[[int], int]:
        """Return what says of which slice a unit is."""
        units = run.plan.unit_count
        count = self._count(units)
        firsts = [units * index // count for index in range(count)]
        return lambda unit: bisect.bisect_right(firsts, unit) - 1

    def script(self, slices: Collection[int] = (), *, isolated: bool = False) -> str:
        """Return the script for some slices; unless they are given, for those that lack units.

        Each task is `tenterhook work` of its slice; with `isolated` it does its units in a process
        of its own, and tries each once less, for they have been tried.
        """
        run = self.run()
        processes = self.processes or (1 if isolated else None)
        tries = max(self.tries - isolated, 1)
        settings = {**self.places, "tries": str(tries)}
        if processes is not None:
            settings |= {"engine": "processes", "workers": str(processes)}
        count = self._count(run.plan.unit_count)
        named = [bash_word(self.store.location), bash_word(self.run_id)]
        asked = ["--slice", f'"$SLURM_ARRAY_TASK_ID/{count}"']
        asked += [bash_word(f"--{name}={text}") for name, text in settings.items()]
        # A name that begins with a dash is no option after two of them.
        is_dashed = any(each.startswith("-") for each in (self.store.location, self.run_id))
        words = ["work", *asked, "--", *named] if is_dashed else ["work", *named, *asked]
        logs = self.options.logs
        return self.options.script(
            "tenterhook",
            words,
            array=array_of(slices or self.slices(run.missing) or range(count)),
            name=f"tenterhook-{self.run_id}",
            more=[] if logs is None else [f"--output={logs}/tenterhook-%A_%a.out"],
        )

    def submit(self) -> SlurmJob:
        """Submit the slices that lack units, and leave it at that."""
        return SlurmJob.submit(self.script())

    def do(
        self,
        *,
        progress: ProgressCallback | None = None,
        on_job: Callable[[str], None] = lambda _: None,
        rounds: int = 3,
    ) -> None:
        """Submit the slices that lack units, wait, and submit what is left, so often in all.

        `on_job` is told in words how the tasks are, when that changes. Raises `UnitsFailed` where
        units are missing in the end, `SlicesEnded` where no task could begin, and what `submit`
        does. Where something else stops it, as Ctrl-C, the job is cancelled.
        """
        watch = _Watch(self, progress, on_job)
        before = _sessions(self.run())
        endings: dict[int, str] = {}
        for count in range(rounds):
            run = self.run()
            failed = _failed(run, before)
            left = self.slices(unit for unit in run.missing if unit not in failed)
            if not left:
                break
            job, endings = watch.until_over(self.script(left, isolated=count > 0))
            failures = [n for n, ending in endings.items() if "FAILED, exit code" in ending]
            if len(failures) == len(left) and _sessions(self.run()) == before:
                raise SlicesEnded(endings[failures[0]], self._said(job, failures[0]))
            self.forget_logs(job, [n for n, ending in endings.items() if "COMPLETED" in ending])
        self._end(endings, before)

    def _end(self, endings: dict[int, str], before: "set[_Key]") -> None:
        """Tidy up a run that is complete; name what is missing of another."""
        run = self.run()
        if run.is_complete:
            self.store.write_run(self.run_id, run.plan).finish()
            return
        failed, slice_of = _failed(run, before), self._slice_of(run)
        lost = {index: f"it was not done: {ending}" for index, ending in endings.items()}
        gone = "it was not done: its task is gone"
        causes = {unit: failed.get(unit) or lost.get(slice_of(unit), gone) for unit in run.missing}
        raise UnitsFailed(self.run_id, causes, self.tries)

    def forget_logs(self, job: SlurmJob, tasks: Iterable[int]) -> None:
        """Remove what Slurm wrote here for tasks, where nobody asked for it."""
        for task in tasks if self.options.logs is None else ():
            with contextlib.suppress(OSError):
                Path(f"slurm-{job.id}_{task}.out").unlink(missing_ok=True)

    def _count(self, units: int) -> int:
        return max(min(self.tasks, units), 1)

    def _said(self, job: SlurmJob, index: int) -> str:
        """Return the last that a task printed, where this machine sees the file."""
        folder = self.options.logs
        name = f"slurm-{job.id}_{index}.out"
        path = Path(name) if folder is None else Path(folder, f"tenterhook-{job.id}_{index}.out")
        with contextlib.suppress(OSError):
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("error: ")]
            return (errors or lines or [""])[-1]
        return ""


class _Watch:
    """Looks at a job and at the run, and tells how far they are."""

    def __init__(
        self, of: SlicedRun, progress: ProgressCallback | None, on_job: Callable[[str], None]
    ) -> None:
        self._of, self._progress, self._on_job = of, progress, on_job
        self._began = time.monotonic()
        self._first: int | None = None
        self._told = ""

    def until_over(self, script: str) -> tuple[SlurmJob, dict[int, str]]:
        """Submit a job and wait until it is over; return it, and how each task ended.

        Where something stops the waiting, the job is cancelled.
        """
        job: SlurmJob | None = None
        endings: dict[int, str] = {}
        rest = 1.0
        try:
            with interrupts_held():
                job = SlurmJob.submit(script)
            while not self._is_over(job, endings, self._tell):
                time.sleep(rest)
                rest = min(rest * 1.2, LOOK)
            self._tell(job, [])
        except BaseException as error:
            if job is not None:
                self._cancel(job, endings)
            run = self._of.run()
            error.add_note(how_to_resume(run.id, run.plan, run.committed))
            raise
        return job, endings

    def _is_over(
        self,
        job: SlurmJob,
        endings: dict[int, str],
        tell: Callable[[SlurmJob, Sequence[TaskState]], None] = lambda *_: None,
    ) -> bool:
        """Look, and note how tasks ended: Slurm forgets them some minutes later."""
        states = job.states()
        if states is None:  # it does not answer
            return False
        for task, state in states.items():
            if state.is_over and task not in endings:
                is_well = state.state == "COMPLETED"
                endings[task] = f"task {task}: COMPLETED" if is_well else job.ending(task)
        if _are_over(states.values()):
            return True
        tell(job, [*states.values()])
        return False

    def _cancel(self, job: SlurmJob, endings: dict[int, str]) -> None:
        job.cancel()
        until = time.monotonic() + ENDS
        while not self._is_over(job, endings) and time.monotonic() < until:
            time.sleep(0.2)
        self._of.forget_logs(job, endings)

    def _tell(self, job: SlurmJob, states: Sequence[TaskState]) -> None:
        waiting = [each for each in states if each.state == "PENDING"]
        running = sum(not each.is_over for each in states) - len(waiting)
        if (said := _tasks(job, waiting, running)) != self._told:
            self._told = said
            self._on_job(said)
        if self._progress is None:
            return
        run = self._of.run()
        rows = run.rows_committed
        self._first = rows if self._first is None else self._first
        gained = rows - self._first
        self._progress(
            Progress(
                run_id=run.id,
                rows=rows,
                rows_total=run.plan.rows,
                rows_new=gained,
                workers=max(running, 1),
                bytes_new=gained * run.plan.row_bytes,
                seconds=time.monotonic() - self._began,
            )
        )


def _are_over(states: Iterable[TaskState]) -> bool:
    return all(each.is_over for each in states)


def _tasks(job: SlurmJob, waiting: Sequence[TaskState], running: int) -> str:
    if not waiting and not running:
        return f"Job {job.id} is over."
    facts = []
    if waiting:
        reasons = sorted({each.reason for each in waiting} - {"None"})
        why = f" ({', '.join(reasons)})" if reasons else ""
        facts.append(f"{len(waiting)} in the queue{why}")
    if running:
        facts.append(f"{running} at work")
    return f"Job {job.id}: {', '.join(facts)}."


_Key = tuple[Any, Any, Any]


def _key(session: dict[str, Any]) -> _Key:
    return session.get("host"), session.get("process"), session.get("start")


def _sessions(run: Run) -> set[_Key]:
    return {_key(each) for each in run.recent(0)["sessions"]}


def _failed(run: Run, before: set[_Key]) -> dict[int, str]:
    """Return the units that are missing, and failed in sessions that were not there before."""
    if _sessions(run) == before:
        return {}
    new = [each for each in run.recent(0)["sessions"] if _key(each) not in before]
    there = run_status(run).failed
    named = {int(number) for each in new for number in each.get("failed", {})}
    return {number: cause for number, cause in there.items() if number in named}
