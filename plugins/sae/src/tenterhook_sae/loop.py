"""The steps of one training, or of several, from one pass over their batches.

A round reads one batch, and each training takes a step on it. Then, with all of them between two
steps, come reports, checkpoints, and the ends of those that are done. A training that went on from
a checkpoint may be ahead of the others: it waits while they take the steps that it has behind it.

What is wrong with a batch, with a disk or with who is told of progress ends all of them. What goes
wrong in the step of one, where there are several, ends that one alone.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import attrs
from torch import Tensor

from tenterhook_sae.batches import Batches, batch_name
from tenterhook_sae.errors import BadSetting, Diverged, NoRows
from tenterhook_sae.evaluation import numbers
from tenterhook_sae.progress import ProgressCallback, TrainingProgress
from tenterhook_sae.settings import TrainingSettings
from tenterhook_sae.stopping import asked_to_stop
from tenterhook_sae.unit_order import RunFollower
from tenterhook_store import NotWritable
from tenterhook_store.progress import showing


class Steps(Protocol):
    """What the loop asks of a training; `Trainer` is one."""

    step: int
    """How many are behind it."""

    history: list[dict[str, float | None]]

    @property
    def settings(self) -> TrainingSettings:
        """How many there are, and how often it is reported and kept."""

    def check(self, batch: Tensor) -> None:
        """Raise for a batch that nothing can be learned from."""

    def take_step(self, batch: Tensor, *, report: bool = False) -> dict[str, float]:
        """Take a step on a batch that was checked; with `report` return what it measured."""

    def check_weights(self) -> None:
        """Raise `Diverged` where they are no numbers any more."""

    def save_checkpoint(self, folder: Path) -> Path:
        """Write all that the steps to come depend on."""

    def finish(self) -> None:
        """Have what was trained work on activations as they are."""


@attrs.define(eq=False, kw_only=True)
class Lane:
    """One training among those that share a pass."""

    trainer: Steps
    folder: Path | None = None
    """Where checkpoints go."""

    progress: ProgressCallback | None = None
    ended: Callable[[], None] = attrs.field(default=lambda: None)
    """What is done when it is done."""

    error: Exception | None = None
    """What ended it before its time."""

    is_done: bool = False
    kept: int | None = None
    """The step of the latest checkpoint that was written here."""
    first: int = attrs.field(init=False)
    """The step at which it began here."""
    rows: int = 0
    """How many it has seen here."""
    found: dict[str, float] = attrs.field(factory=dict)
    """What its latest step measured."""

    def __attrs_post_init__(self) -> None:
        self.first = self.trainer.step

    @property
    def runs(self) -> bool:
        """Whether it has steps to take."""
        return self.error is None and not self.is_done

    @property
    def is_last(self) -> bool:
        """Whether no step is left."""
        return self.trainer.step >= self.trainer.settings.steps

    def step(self, batch: Tensor) -> None:
        """Take a step; remember what it measured, where it is to be reported."""
        settings, number = self.trainer.settings, self.trainer.step + 1
        report = number == settings.steps or number % settings.log_every == 0
        self.found = self.trainer.take_step(batch, report=report)
        self.rows += len(batch)
        if report:
            self.trainer.history.append({"step": self.trainer.step, **numbers(self.found)})

    def after(self, seconds: float) -> None:
        """Report the step that was taken, keep it or end with it, as settings say."""
        trainer = self.trainer
        if self.found and self.progress is not None:
            left = trainer.settings.steps - trainer.step
            self.progress(
                TrainingProgress(
                    step=trainer.step,
                    steps=trainer.settings.steps,
                    rows_per_second=self.rows / seconds,
                    seconds_left=seconds / (trainer.step - self.first) * left,
                    **self.found,
                )
            )
        if self.is_last:
            trainer.check_weights()
            self.keep()
            self.end()
        elif not trainer.step % trainer.settings.checkpoint_every:
            self.keep()

    def keep(self) -> None:
        """Write a checkpoint of the step that was taken, where there is a folder for it."""
        if self.folder is not None and self.kept != self.trainer.step:
            self.trainer.save_checkpoint(self.folder)
            self.kept = self.trainer.step

    def end(self) -> None:
        """Finish what was trained, and do what is done then."""
        self.trainer.finish()
        self.is_done = True
        self.ended()


def run_lanes(lanes: Sequence[Lane], batches: Batches, *, at: int) -> None:
    """Take the steps that are left; `batches` stand before the one after step `at`.

    Where a run is followed, checkpoints note on it which of its units are needed no more. A batch
    that is not there yet is waited for, with checkpoints that make room for it.

    Ctrl-C waits for the round under way and then raises `KeyboardInterrupt`, with checkpoints where
    there are folders; pressed twice it does not wait, and the latest checkpoints stay. Whatever
    ends it before its time, the trainings that have taken a step are finished.
    """
    for lane in lanes:
        if lane.is_last:
            lane.end()
    began = time.perf_counter()
    stream = iter(batches)
    is_between_steps = True
    try:
        followed = _followed(lanes, batches, at)
        with _telling(lanes) as tell, asked_to_stop() as asked:
            while running := [lane for lane in lanes if lane.runs]:
                if asked.is_set():
                    raise KeyboardInterrupt
                if followed is not None:
                    followed.wait(at, asked)
                    running = [lane for lane in running if lane.runs]
                    if not running:
                        continue
                is_between_steps = False
                batch = next(stream, None)
                if batch is None:
                    what = "Batches have no end: begin them again."
                    raise NoRows(batch_name(batches, at + 1), what)
                at += 1
                stepped = [lane for lane in running if lane.trainer.step < at]
                for lane in stepped[:1]:
                    lane.trainer.check(batch)
                for lane in stepped:
                    with _alone(lane, Exception if len(lanes) > 1 else ()):
                        lane.step(batch)
                is_between_steps = True
                for lane in stepped:
                    if lane.runs:
                        with _alone(lane, Diverged if len(lanes) > 1 else ()):
                            lane.after(time.perf_counter() - began)
                if followed is not None:
                    followed.note(at)
                tell(at)
        if followed is not None:
            followed.follower.finish()
    except KeyboardInterrupt as error:
        # In the middle of a step, weights and batches do not belong together.
        if is_between_steps:
            _keep_all([lane for lane in lanes if lane.runs and lane.trainer.step == at], error)
        raise
    finally:
        for lane in lanes:
            if not lane.is_done and lane.trainer.step:
                lane.trainer.finish()


class _Followed:
    """The place of several trainings in a run that is followed: that of the one furthest behind."""

    def __init__(self, follower: RunFollower, lanes: Sequence[Lane], at: int) -> None:
        self.follower = follower
        self._lanes = lanes
        self._before = follower.given - at
        """Batches that were given before the first step."""

    def note(self, at: int) -> None:
        """Note on the run which units no training would ask for again, with `at` steps taken."""
        kept = [self._kept(lane, at) for lane in self._lanes if lane.runs]
        known = [step for step in kept if step is not None]
        if known and len(known) == len(kept):
            self.follower.commit(min(known) + self._before)

    def wait(self, at: int, asked: threading.Event) -> None:
        """Wait until the next batch is there; write checkpoints where the run waits for them."""
        while True:
            if self.follower.wants_commit:
                for lane in self._lanes:
                    if lane.runs and lane.trainer.step == at:
                        with _alone(lane, Diverged if len(self._lanes) > 1 else ()):
                            lane.keep()
                self.note(at)
            if self.follower.is_there() or not any(lane.runs for lane in self._lanes):
                return
            if asked.is_set():
                raise KeyboardInterrupt
            self.follower.rest()

    def _kept(self, lane: Lane, at: int) -> int | None:
        """Return the step that a training would go on from, were it killed now."""
        # One that is ahead of the others went on from a checkpoint, and has it still.
        return lane.trainer.step if lane.trainer.step > at else lane.kept


def _followed(lanes: Sequence[Lane], batches: Batches, at: int) -> _Followed | None:
    """Begin to follow a run, where batches do; with nothing left to train, note that it is over."""
    follower: RunFollower | None = getattr(batches, "follower", None)
    if follower is None:
        return None
    if any(lane.folder is None for lane in lanes):
        what = "a folder: who follows a run notes with checkpoints what it needs no more"
        raise BadSetting("out", None, what)
    if any(lane.runs for lane in lanes):
        follower.begin()
    return _Followed(follower, lanes, at)


@contextmanager
def _telling(lanes: Sequence[Lane]) -> Iterator[Callable[[int], None]]:
    """Give what is told at which step all are, and shows it where nobody else is told."""
    if any(lane.progress is not None for lane in lanes):
        yield lambda step: None
        return
    what = "Training an SAE" if len(lanes) == 1 else f"Training {len(lanes)} SAEs"
    with showing(what, max(lane.trainer.settings.steps for lane in lanes), "steps") as work:
        yield work.reach


def _keep_all(lanes: Sequence[Lane], error: KeyboardInterrupt) -> None:
    """Write the checkpoint of each that has taken a step; note on the error what came of it."""
    notes = []
    for lane in lanes:
        trainer = lane.trainer
        if lane.folder is None or trainer.step <= lane.first:
            continue
        try:
            trainer.save_checkpoint(lane.folder)
        except (NotWritable, Diverged) as failed:
            notes.append(f"No checkpoint of step {trainer.step}: {failed}.")
        else:
            notes.append(f"Stopped after step {trainer.step}; the same call again goes on.")
    for note in dict.fromkeys(notes):
        error.add_note(note)


class _alone:
    """A block in which errors of some types end one training, and not all of them."""

    def __init__(self, lane: Lane, types: type[Exception] | tuple[()]) -> None:
        self._lane, self._types = lane, types

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, self._types) or not isinstance(error, Exception):
            return False
        self._lane.error = error
        return True
