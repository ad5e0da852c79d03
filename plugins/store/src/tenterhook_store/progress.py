"""How far long work is: said where somebody looks, once it has lasted for two seconds.

Whoever works says what it does and counts what is done; see `showing`. Where that is shown:

- in a terminal a bar on stderr, which rich draws, where it is installed;
- in a notebook a bar below the cell;
- where stderr is neither, nothing, but for the commands of `tenterhook`, which have a line printed
  every ten seconds; see `lines`.

One bar is shown at a time: work that is a part of other work counts, and shows nothing.
`TENTERHOOK_PROGRESS=off` shows none at all.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from html import escape
from typing import Any, Protocol, final

from tenterhook.one_line import printable

SECONDS = 2.0
"""How long work lasts before anything is shown of it."""

EVERY = 10.0
"""Seconds between two lines."""

AGAIN = 0.1
"""Seconds between two looks of a bar."""

VARIABLE = "TENTERHOOK_PROGRESS"

Progress = Callable[[int, int], None]
"""Is called with how much is done, and of how much."""


@final
class Work:
    """Work that is being done. Call it with how much more is done; any thread may."""

    def __init__(
        self, what: str, total: int | None, unit: str, progress: Progress | None = None
    ) -> None:
        self.what, self.total, self.unit = printable(what, 100), total, unit
        self.done = 0
        self._first = 0
        self._progress = progress
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._display: _Display | None = None
        self._next = 0.0

    def __call__(self, count: int = 1) -> None:
        """Count what was done since the last call."""
        with self._lock:
            self._reach(self.done + count)

    def reach(self, done: int, total: int | None = None) -> None:
        """Say how much is done in all; what the first such call says was done before."""
        with self._lock:
            self.total = total or self.total
            if not self.done:
                self._first = done
            self._reach(done)

    @property
    def text(self) -> str:
        """How far it is, in words."""
        of = "" if self.total is None else f" of {self.total:,}"
        said = f"{self.what}: {self.done:,}{of} {self.unit}"
        left = self.seconds_left
        return f"{said}, {how_long(left)} left" if left else said

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes if it goes on as before; `None` where nobody can tell."""
        new = self.done - self._first
        if self.total is None or new <= 0:
            return None
        return (time.monotonic() - self._began) * max(self.total - self.done, 0) / new

    def _reach(self, done: int) -> None:
        self.done = done
        if self._progress is not None:
            self._progress(done, done if self.total is None else self.total)
        if self._display is not None and time.monotonic() >= self._next:
            self._show(self._display)

    def _show(self, display: "_Display") -> None:
        self._next = time.monotonic() + display.seconds
        display.show(self)

    def begin(self, display: "_Display") -> None:
        """Show it from now on."""
        with self._lock:
            self._display = display
            self._show(display)

    def end(self) -> None:
        """Show where it ended."""
        with self._lock:
            display, self._display = self._display, None
            if display is not None:
                display.close(self)


@contextlib.contextmanager
def showing(
    what: str, total: int | None, unit: str = "rows", progress: Progress | None = None
) -> Iterator[Work]:
    """Show how far work is while the block runs; it calls what this gives with what is done.

    `what` says in a word or two what is done, `unit` what is counted. With `progress` nothing is
    shown, and it is called each time.
    """
    work = Work(what, total, unit, progress)
    make = None if progress is not None else _where()
    if make is None or not _turn.acquire(blocking=False):
        yield work
        return
    # In a thread of its own: work whose first step takes a minute is shown, too. It runs in this
    # context, by which a notebook knows the cell.
    begin = threading.Timer(SECONDS, copy_context().run, (lambda: work.begin(make()),))
    begin.daemon = True
    try:
        if SECONDS > 0:
            begin.start()
        else:
            work.begin(make())
        yield work
    finally:
        begin.cancel()
        if SECONDS > 0:
            begin.join()
        work.end()
        _turn.release()


@contextlib.contextmanager
def shown_elsewhere() -> Iterator[None]:
    """Have nothing shown by `showing` while the block runs: it shows a bar of its own."""
    has_turn = _turn.acquire(blocking=False)
    try:
        yield
    finally:
        if has_turn:
            _turn.release()


@contextlib.contextmanager
def lines(echo: Callable[[str], None]) -> Iterator[None]:
    """Have a line printed every ten seconds where there is no terminal, while the block runs."""
    global _echo
    before, _echo = _echo, echo
    try:
        yield
    finally:
        _echo = before


def how_long(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s" if seconds else "0 s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.0f} days"


_turn = threading.Lock()
"""Held by the work that is shown."""

_echo: Callable[[str], None] | None = None
"""What prints a line, where lines are wanted."""


class _Display(Protocol):
    """Where progress is shown."""

    seconds: float
    """How often."""

    def show(self, work: Work) -> None:
        """Show how far it is."""

    def close(self, work: Work) -> None:
        """Show where it ended, and show no more."""


def somebody_looks() -> bool:
    """Whether `showing` would show anything: for what is slower when it says how far it is."""
    return _where() is not None


def _where() -> Callable[[], _Display] | None:
    """Return what makes the display; `None` where nobody looks."""
    if os.environ.get(VARIABLE, "").lower() in ("off", "0", "no", "false"):
        return None
    if _in_notebook():
        return _Notebook
    if sys.stderr is not None and sys.stderr.isatty():
        return _Terminal if importlib.util.find_spec("rich") else None
    echo = _echo
    return None if echo is None else lambda: _Lines(echo)


def _in_notebook() -> bool:
    shell = getattr(_ipython(), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _ipython() -> Any:
    """Return IPython where it runs: in a notebook it was there before us."""
    return sys.modules.get("IPython")


class _Terminal:
    """A bar on stderr."""

    seconds = AGAIN

    def __init__(self) -> None:
        bars = importlib.import_module("rich.progress")
        console = importlib.import_module("rich.console").Console(stderr=True)
        self._bars = bars.Progress(
            bars.BarColumn(),
            bars.TextColumn("{task.percentage:3.0f}%", markup=False),
            bars.TextColumn("{task.description}", markup=False),  # names may hold brackets
            console=console,
        )
        self._task: Any = None

    def show(self, work: Work) -> None:
        now = {"completed": work.done, "total": work.total, "description": work.text}
        if self._task is None:
            self._task = self._bars.add_task(**now)
            self._bars.start()
        else:
            self._bars.update(self._task, **now)

    def close(self, work: Work) -> None:
        self.show(work)
        self._bars.stop()


class _Notebook:
    """A bar below the cell. That of rich needs ipywidgets, which many notebooks lack."""

    seconds = 5 * AGAIN

    def __init__(self) -> None:
        self._display: Any = importlib.import_module(f"{_ipython().__name__}.display")
        self._id: str | None = None

    def show(self, work: Work) -> None:
        of = "" if work.total is None else f" value={work.done} max={max(work.total, 1)}"
        bundle = {
            "text/plain": work.text,
            "text/html": f"<label><progress{of}></progress> {escape(work.text)}</label>",
        }
        if self._id is None:
            self._id = self._display.display(bundle, raw=True, display_id=True).display_id
        else:
            self._display.update_display(bundle, raw=True, display_id=self._id)

    def close(self, work: Work) -> None:
        self.show(work)


class _Lines:
    """A line now and then, for logs; the last one where there were others."""

    seconds = EVERY

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._has_begun = False
        self._printed: int | None = None
        """How much was done at the last line."""

    def show(self, work: Work) -> None:
        # Work that takes less than that needs no line.
        if self._has_begun:
            self._echo(work.text)
            self._printed = work.done
        self._has_begun = True

    def close(self, work: Work) -> None:
        if self._printed not in (None, work.done):
            self._echo(work.text)
