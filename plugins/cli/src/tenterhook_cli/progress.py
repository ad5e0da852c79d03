"""How commands that run a capture show how far it is, and how they are stopped."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tenterhook_cli.amounts import how_long, size
from tenterhook_cli.interrupts import interrupted_by
from tenterhook_cli.terminal import echo
from tenterhook_store.progress import shown_elsewhere

if TYPE_CHECKING:
    from tenterhook_capture import Progress


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Have Ctrl-C, and what schedulers send before they kill, stop the run cleanly."""
    with interrupted_by(signal.SIGTERM):
        try:
            yield
        except KeyboardInterrupt as error:
            for note in getattr(error, "__notes__", ()):
                echo(note, err=True)
            raise


@contextlib.contextmanager
def progress_bar() -> Iterator["Callable[[Progress], None]"]:
    """Show a bar on stderr where it is a terminal, a line every ten seconds where it is none."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        with shown_elsewhere():
            yield _Lines()
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.description}"),
    )
    with shown_elsewhere(), Bars(*columns, console=console) as bars:
        task = bars.add_task("")

        def show(progress: "Progress") -> None:
            text = described(progress)
            bars.update(task, completed=progress.rows, total=progress.rows_total, description=text)

        yield show


@contextlib.contextmanager
def documents_bar() -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how many documents are tokenized, as `progress_bar` shows rows."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        with shown_elsewhere():
            yield _DocumentLines()
        return
    columns = (BarColumn(), TextColumn("{task.description}"))
    with shown_elsewhere(), Bars(*columns, console=console) as bars:
        task = bars.add_task("")

        def show(done: int, count: int) -> None:
            bars.update(task, completed=done, total=count, description=tokenized(done, count))

        yield show


def tokenized(done: int, count: int) -> str:
    """Return how far tokenizing is, in words."""
    return f"{done:,} of {count:,} documents tokenized"


class _DocumentLines:
    """How many documents are tokenized, for logs."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _Lines.seconds

    def __call__(self, done: int, count: int) -> None:
        if done == count or time.monotonic() >= self._next:
            self._next = time.monotonic() + _Lines.seconds
            echo(tokenized(done, count), err=True)


class Remembered:
    """Passes progress on, and remembers how many rows were done."""

    def __init__(self, show: "Callable[[Progress], None]") -> None:
        self._show = show
        self.rows_new = 0

    def __call__(self, progress: "Progress") -> None:
        """Take note, and show it."""
        self.rows_new = progress.rows_new
        self._show(progress)


class _Lines:
    """Progress for logs."""

    seconds = 10.0

    def __init__(self) -> None:
        self._next = self.seconds

    def __call__(self, progress: "Progress") -> None:
        ended = not progress.rows_left_here
        if progress.seconds < self._next and not (ended and progress.rows_new):
            return
        self._next = progress.seconds + self.seconds
        echo(described(progress), err=True)


def described(progress: "Progress") -> str:
    """Return how far the run is, and how fast with all who work on it, in words."""
    facts = [
        f"{progress.rows:,} of {progress.rows_total:,} rows",
        f"{progress.rows_per_second:,.0f} rows/s",
        size(progress.bytes_new),
    ]
    facts += [f"{progress.workers} processes at work"] if progress.workers > 1 else []
    if progress.seconds_left:
        facts.append(f"{how_long(progress.seconds_left)} left")
    return ", ".join(facts)
