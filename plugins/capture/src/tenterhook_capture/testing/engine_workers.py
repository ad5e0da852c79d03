"""What `EngineContract` has engines do, in whichever process: this imports no pytest.

Two kinds of work. `RowWorker` writes rows that follow from their numbers. `SmallCapture` is a
capture of a small real model, whose workers leave word of themselves in a folder: which processes
there were, and which units were begun how often.
"""

import contextlib
import os
import platform
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import attrs
import torch

from tenterhook_capture.engine import Engine, UnitEvent, Worker
from tenterhook_capture.options import CaptureOptions
from tenterhook_capture.prepare import prepare_capture
from tenterhook_capture.progress import ProgressCallback
from tenterhook_capture.save import save_activations
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_capture.threads import set_threads
from tenterhook_capture.workers import make_worker as capture_worker
from tenterhook_store import LocalStore, Run, RunPlan, RunWriter, Store, Unit
from tenterhook_store.testing.small_runs import rows_of, same_bits

RUN = "run"
LAYERS = ["blocks.0", "blocks.1"]
TEXTS = [" ".join(f"word{n * k % 13}" for k in range(3 + n % 5)) for n in range(28)]
OPTIONS = CaptureOptions(rows_per_unit=16, batch_size=4)
UNITS = 9
"""How many there are in a `SmallCapture`."""


@attrs.frozen
class RowWorker:
    """Writes rows that follow from their numbers; raises for some units."""

    writer: RunWriter
    bad: frozenset[int] = frozenset()

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Write and commit a unit; `ValueError` for a bad one."""
        with self.writer.open_unit(unit) as writing:
            writing.append(rows_of(self.writer.plan, unit.start, unit.stop))
            if unit.number in self.bad:
                raise ValueError(f"unit {unit.number} is bad")
            writing.commit({"rows": unit.rows})
        return {"rows": unit.rows, "threads": torch.get_num_threads()}


def make_worker(place: str, plan: str, bad: frozenset[int] = frozenset()) -> RowWorker:
    """Make a worker, in whichever process; a `functools.partial` of it pickles."""
    found = RunPlan.from_json(plan)
    set_threads(found)
    return RowWorker(LocalStore(place).write_run(RUN, found), bad)


class ProcessWorker:
    """Says in which process a unit was done."""

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Return the process's number."""
        return {"process": os.getpid()}


class CountedUnits(Sequence[Unit]):
    """Units that count how many of them were made."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self.made = 0

    def __len__(self) -> int:
        return len(self._units)

    @overload
    def __getitem__(self, key: int) -> Unit: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Unit]: ...
    def __getitem__(self, key: int | slice) -> Unit | Sequence[Unit]:
        found = self._units[key]
        self.made += 1 if isinstance(found, Unit) else len(found)
        return found


class Interrupted:
    """Is interrupted at unit 1, as by Ctrl-C, with half of it written; else as `RowWorker`."""

    def __init__(self, place: str, plan: str) -> None:
        self.does = make_worker(place, plan)

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Write and commit a unit; `KeyboardInterrupt` for unit 1."""
        if unit.number == 1:
            with self.does.writer.open_unit(unit) as writing:
                writing.append(rows_of(self.does.writer.plan, unit.start, unit.start + 1))
                raise KeyboardInterrupt
        return self.does(unit)


class Killed(Interrupted):
    """Kills its process at unit 1, with half of it written; else as `RowWorker`."""

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Write and commit a unit, or end."""
        if unit.number == 1:
            writing = self.does.writer.open_unit(unit)
            writing.append(rows_of(self.does.writer.plan, unit.start, unit.start + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.does(unit)


def cannot_make() -> RowWorker:
    """Fail to make one."""
    raise LookupError("there is no model here")


@attrs.frozen
class SmallCapture:
    """Makes workers of a small capture that is begun in a store; it pickles."""

    place: str
    """Of the store: a path or a URL."""
    notes: Path
    """The folder in which workers leave word."""
    kills: frozenset[int] = frozenset()
    """Units that kill the process that begins them."""
    times: int | None = None
    """How often they do; `None` for always."""
    rest: float = 0.0
    """Seconds that a unit takes longer."""
    waits: str | None = None
    """A file among the notes that the last unit waits for."""

    def __call__(self) -> "SmallWorker":
        """Make a worker, with as many threads as the run has."""
        _note(self.notes, f"process-{platform.node()}-{os.getpid()}")
        store = LocalStore(self.place)
        plan = store.run(RUN).plan
        set_threads(plan)
        capture = prepare_capture(WordModel(), LAYERS, TEXTS, options=OPTIONS)
        return SmallWorker(self, capture_worker(capture, store.write_run(RUN, plan)))

    def save(self, engine: Engine, progress: ProgressCallback | None = None) -> Run:
        """Do what is missing of the capture by an engine; raises what `save_activations` does."""
        store = LocalStore(self.place)
        save(store, Making(engine, self), progress)
        return store.run(RUN)

    def processes(self) -> set[int]:
        """Return the numbers of this machine's processes that a worker was made in."""
        start = f"process-{platform.node()}-"
        return {int(each.name.removeprefix(start)) for each in self.notes.glob(f"{start}*")}

    def begun(self, number: int) -> int:
        """Return how often a unit was begun."""
        return len(list(self.notes.glob(f"unit-{number}-*")))

    def left(self, within: float = 60.0) -> set[int]:
        """Return the processes that are left, once they had time to end."""
        until = time.monotonic() + within
        others = self.processes() - {os.getpid()}
        while (left := set(filter(is_alive, others))) and time.monotonic() < until:
            time.sleep(0.02)
        return left


@attrs.frozen
class SmallWorker:
    """Does units of a `SmallCapture`."""

    of: SmallCapture
    does: Worker

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Compute, write and commit a unit, or end its process; say which one that is."""
        of = self.of
        _note(of.notes, f"unit-{unit.number}-{secrets.token_hex(4)}")
        if unit.number in of.kills and (of.times is None or of.begun(unit.number) <= of.times):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(of.rest)
        while of.waits and unit.number == UNITS - 1 and not (of.notes / of.waits).exists():
            time.sleep(0.02)
        return {**self.does(unit), "process": os.getpid()}


@attrs.frozen(eq=False)
class Making:
    """An engine that makes other workers than those of the run that it is given to.

    So a capture of what has no name, which no other process could load, is done elsewhere.
    """

    engine: Engine
    make: Callable[[], Worker]

    def run(self, units: Sequence[Unit], make_worker: Callable[[], Worker]) -> Iterator[UnitEvent]:
        """Do the units; see `Engine.run`."""
        events = self.engine.run(units, self.make)
        try:
            yield from events
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()

    def workers_alive(self) -> int:
        """Return what the engine says, if it does."""
        count: Callable[[], int] = getattr(self.engine, "workers_alive", lambda: 1)
        return count()


def save(store: Store, engine: Engine | None, progress: ProgressCallback | None = None) -> None:
    """Do what is missing of the small capture."""
    options = attrs.asdict(OPTIONS)
    save_activations(
        WordModel(), LAYERS, TEXTS, store, run_name=RUN, engine=engine, progress=progress, **options
    )


def same_rows(run: Run, other: Run) -> bool:
    """Say whether two runs have the same rows to the bit: layers, tokens, documents, positions."""
    pairs = [(run[name][:], other[name][:]) for name in run.layers]
    pairs.append((run.tokens[:], other.tokens[:]))
    pairs.append((run.documents.index[:], other.documents.index[:]))
    pairs.append((run.documents.position[:], other.documents.position[:]))
    return list(run.layers) == list(other.layers) and all(same_bits(*pair) for pair in pairs)


def is_alive(process: int) -> bool:
    """Say whether a process of this machine runs; one that nobody has waited for has ended."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    with contextlib.suppress(OSError):  # there is no such file on every system
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _note(folder: Path, name: str) -> None:
    (folder / name).touch()
