"""Units that are missing, done: each tried again a few times, the rest done whatever becomes of it.

What is a unit's own trouble is tried again, and then left out and named. What would stop every
unit alike is raised at once: Ctrl-C, a disk that is full or gone, what a caller's own progress
callback raises.
"""

from collections.abc import Callable, Iterator

from tenterhook_capture.engine import Engine, UnitDone, UnitEvent, UnitFailed, Worker
from tenterhook_capture.errors import UnitsFailed
from tenterhook_capture.lost_values import LostValues
from tenterhook_capture.observers import observing
from tenterhook_capture.others import Others
from tenterhook_capture.prepare import Capture
from tenterhook_capture.probe import Probe
from tenterhook_capture.progress import Meter, ProgressCallback
from tenterhook_capture.session import Session, in_one_line
from tenterhook_capture.slices import Slice
from tenterhook_capture.threads import threads_of
from tenterhook_capture.workers import WorkersHere
from tenterhook_store import DamagedStore, DeletedRun, RunPlan, RunWriter, Store
from tenterhook_store.plan import Units
from tenterhook_store.unit_numbers import UnitNumbers

TRIES = 3
"""How often a unit is tried unless something else is asked for."""

STOPS = (OSError, DamagedStore, DeletedRun, MemoryError)
"""Errors that are the machine's or the store's, and no unit's own."""


def do_units(
    store: Store,
    capture: Capture,
    writer: RunWriter,
    *,
    part: Slice | None,
    engine: Engine,
    tries: int,
    progress: ProgressCallback | None,
    probe: Probe | None = None,
) -> None:
    """Do what is missing of the run, or of a slice of its plan; whoever is last tidies up.

    `probe` is what its rows were when they were computed again; the session says so. Raises
    `UnitsFailed` once all others are done.
    """
    plan, committed = writer.plan, writer.committed()
    count = plan.unit_count
    numbers = range(count) if part is None else part.numbers(count)
    own, todo = Units(plan, numbers), _missing(plan, numbers, committed)
    meter = Meter(
        progress,
        run_id=writer.run_id,
        rows=own.rows - todo.rows,
        rows_total=own.rows,
        row_bytes=plan.row_bytes,
        run_rows=plan.rows,
        others=Others(store, writer, numbers),
        workers=getattr(engine, "workers_alive", lambda: 1),
    )
    meter.add(0)
    if todo:
        run = observing(writer.run_id, plan, own, todo)
        with (
            threads_of(plan) as threads,
            Session(
                writer,
                capture.session,
                part=None if part is None else str(part),
                probe=None if probe is None else probe.facts(),
                threads=threads,
            ) as session,
            run as observed,
        ):
            make = WorkersHere(store, capture, writer, meter.add)
            lost = LostValues()
            watched = observed.watching(engine)
            failed = _try(todo, numbers, make, writer, watched, tries, meter, lost)
            lost.warn()
            if failed:
                session.note_failed(failed, tries)
                causes = {number: in_one_line(error) for number, error in failed.items()}
                first = next(iter(failed.values()))
                raise UnitsFailed(writer.run_id, causes, tries) from first
    elif probe is not None and probe.verdict == "close":
        # Nothing was written, so it is no part of when the run began and ended.
        Session(writer, capture.session, is_worker=True, probe=probe.facts()).begin()
    if part is None or len(writer.committed()) == plan.unit_count:
        writer.finish()


def _missing(plan: RunPlan, numbers: range, committed: frozenset[int]) -> Units:
    """Return the units of these numbers that are not committed."""
    return Units(plan, UnitNumbers.missing(committed, numbers.stop, numbers.start))


def _try(
    units: Units,
    numbers: range,
    make: Callable[[], Worker],
    writer: RunWriter,
    engine: Engine,
    tries: int,
    meter: Meter,
    lost: LostValues,
) -> dict[int, Exception]:
    """Do the units, which are what is missing of these numbers.

    Return those that failed every time, with what they raised last.
    """
    left, errors = units, dict[int, Exception]()
    for _ in range(tries):
        events = engine.run(left, make)
        try:
            for event in events:
                if isinstance(event, UnitDone):
                    lost.add(event.facts)
                _take(event, errors, meter)
        finally:
            _close(events)
        left = _missing(writer.plan, numbers, writer.committed())  # what is done, the store says
        meter.left(left.rows)
        if not left:
            break
    return {
        unit.number: errors.get(unit.number)
        or RuntimeError("the engine never said what became of it")
        for unit in left
    }


def _take(event: UnitEvent, errors: dict[int, Exception], meter: Meter) -> None:
    if isinstance(event, UnitDone):
        meter.settle(event.unit.rows)
        return
    meter.drop()
    if not isinstance(event, UnitFailed):
        errors[event.unit.number] = RuntimeError(f"its worker was lost: {event.reason}")
        return
    if meter.raised is not None:
        raise meter.raised
    if isinstance(event.error, STOPS):
        event.error.add_note(f"This was unit {event.unit.number} of the run.")
        raise event.error
    errors[event.unit.number] = event.error
    if event.error is not next(iter(errors.values())):
        _without_frames(event.error)


def _without_frames(error: BaseException | None) -> None:
    """Let go of what an error's frames hold, a batch and its activations, and its causes' frames.

    The first error of a run has them, to be looked at; any other is shown as a line of text.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _close(events: Iterator[UnitEvent]) -> None:
    """Have an engine that is a generator let go of what it holds, now."""
    close = getattr(events, "close", None)
    if close is not None:
        close()
