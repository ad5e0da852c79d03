"""Whose scope it is: the open scopes of each thread and asyncio task, and what they run where."""

import functools
import inspect
from asyncio import _get_running_loop, current_task
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from tenterhook._entries import Entry

if TYPE_CHECKING:
    from tenterhook._dispatch import Place


F = TypeVar("F", bound=Callable[..., Any])


class Steps:
    """What one scope, with the scopes around it, runs at one site."""

    __slots__ = ("backward", "forward", "keep", "stop")

    def __init__(
        self,
        forward: tuple[Any, ...] = (),
        backward: tuple[Entry, ...] = (),
        stop: Callable[[], None] | None = None,
        keep: Any = None,
    ) -> None:
        self.forward = forward
        """Run on inputs or outputs, as an `Entry`'s `before` and `after` do."""
        self.backward = backward
        """Run on the gradient."""
        self.stop = stop
        """Ends the forward by raising, when all else here has run."""
        self.keep = keep
        """The only step, where that is one that adds a copy of each tensor to its `calls`."""

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(
            self.forward + other.forward, self.backward + other.backward, self.stop or other.stop
        )


NO_STEPS = Steps()


class Frame:
    """One open scope of one thread or task, on top of the scopes around it.

    A frame belongs to the thread and asyncio task that opened it. Contexts are copied into the
    tasks that a task starts, so the context variable alone does not say whose a frame is.
    """

    __slots__ = (
        "also",
        "carried",
        "child",
        "closed",
        "muted",
        "own",
        "parent",
        "table",
        "task",
        "thread",
    )

    def __init__(
        self, own: "dict[Place, Steps]", also: "tuple[Place, ...]" = (), mute: bool = False
    ) -> None:
        self.thread = get_ident()
        self.task = running_task()
        self.own = own
        """What this scope runs where."""
        self.also = also
        """Sites that look for scopes on this one's behalf."""
        self.parent = visible_frame()
        """The scope around this one."""
        self.child: Frame | None = None
        self.closed = False
        self.carried: list[Frame] | None = None
        """The frames through which other threads and tasks see this one; see `carry`."""
        self.muted = mute
        """Whether controllers are off."""
        self.table = own
        """What runs where, the scopes around this one included."""
        parent = self.parent
        if parent is not None:
            parent.child = self
            self.muted = mute or parent.muted
            self.table = _merged(parent.table, own)

    def heard(self, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the entries that run in this scope: none that control, while it is muted."""
        if not self.muted:
            return entries
        return tuple(heard for entry in entries if (heard := entry.quiet()) is not None)

    def close(self) -> None:
        """Take this scope's steps out of every table that they are in, whoever calls."""
        self.closed = True
        parent, child = self.parent, self.child
        self.table = {} if parent is None else parent.table
        self.muted = parent is not None and parent.muted
        if parent is not None:
            parent.child = child
        while child is not None:  # closed out of order: the scopes inside go on without this one
            child.parent = parent
            child.table = child.own if parent is None else _merged(parent.table, child.own)
            parent, child = child, child.child
        if current_frame.get() is self:
            current_frame.set(self.parent)
        for carried in self.carried or ():
            carried.close()


current_frame: ContextVar[Frame | None] = ContextVar("tenterhook_frame", default=None)


def running_task() -> Any:
    """Return the asyncio task that runs in this thread, `None` where no loop does."""
    return None if _get_running_loop() is None else current_task()


def visible_frame() -> Frame | None:
    """Return the innermost open scope of this thread and task."""
    frame = current_frame.get()
    while frame is not None and frame.closed:
        frame = frame.parent
    if frame is None or frame.thread != get_ident() or frame.task is not running_task():
        return None
    return frame


def _merged(outer: "dict[Place, Steps]", inner: "dict[Place, Steps]") -> "dict[Place, Steps]":
    table = {**outer, **inner}
    for site in outer.keys() & inner.keys():
        table[site] = outer[site] + inner[site]
    return table


def carry(function: F) -> F:
    """Return `function` so that, called in another thread or task, it sees this one's open scopes.

    `pool.submit(tenterhook.carry(run), batch)`. The scopes are those open where `carry` is called;
    one that has been closed when the function runs is not seen. Captures of several threads join
    one list, in the order in which they come.
    """
    origin = visible_frame()

    @contextmanager
    def seen() -> Iterator[None]:
        if origin is None or origin.closed:
            yield
            return
        frame = Frame(origin.table, mute=origin.muted)
        if origin.carried is None:
            origin.carried = []
        origin.carried.append(frame)
        current_frame.set(frame)
        try:
            yield
        finally:
            frame.close()

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with seen():
            return function(*args, **kwargs)

    @functools.wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        with seen():
            return await function(*args, **kwargs)

    chosen = run_async if inspect.iscoroutinefunction(function) else run
    return chosen  # type: ignore[return-value]
