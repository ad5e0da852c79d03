"""Whose scope it is: the open scopes of each thread and asyncio task, and what they run where.

A *place* is one side of one module (a site, or a module whose forward is answered for). A *frame*
is one open scope. It has a table: place to what runs there, this scope's steps and those of the
scopes around it merged, the outermost first. What happens:

- Opening makes a frame on top of the innermost one of this thread, merges the tables once, and
  shows the frame to this thread (`of_thread`), or to this asyncio task (`_of_task`).
- A call looks up the innermost frame and its table: one attribute, one dictionary look-up, however
  many scopes are open. It takes no lock.
- Closing hides the frame again. Scopes are mostly closed innermost first, in their own thread. A
  frame that is closed out of order, or by another thread, is marked `closed`: the frames inside it
  merge their tables anew, and whoever finds it innermost goes on to its parent.

`lock` is held by whoever opens, closes or registers, never by a call. So a call may read while
another thread changes things: tables are replaced, not changed, and a call that has a table goes on
with it. `test_scopes_property.py` compares all this with a plain model of nested scopes, and
`test_scopes_threads.py` runs it from many threads and tasks.
"""

import functools
import inspect
import os
import threading
from asyncio import _get_running_loop, current_task
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import attrs

F = TypeVar("F", bound=Callable[..., Any])

lock = threading.RLock()
"""Held while anything is registered, removed, opened or closed; never during a forward."""

if hasattr(os, "register_at_fork"):  # the child has no other thread that would release it
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )


class Place:
    """One side of one module, where open scopes may have something to run."""

    __slots__ = ("held", "scopes")

    def __init__(self) -> None:
        self.held: tuple[Any, ...] = ()
        """The `Registration`s here, in the order in which their hooks run."""
        self.scopes = 0
        """How many open scopes look here."""

    @property
    def installed(self) -> bool:
        """Whether something of ours is on the module now."""
        raise AssertionError("abstract")

    enter: Callable[[], None]
    """Count one more open scope that looks here; the lock is held."""

    leave: Callable[[], None]
    """Count one open scope less; the lock is held."""


@attrs.define(eq=False, repr=False)
class Steps:
    """What one scope, with the scopes around it, runs at one site."""

    forward: tuple[Any, ...] = ()
    """Run on inputs or outputs, as an `Entry`'s `before` and `after` do."""
    backward: tuple[Any, ...] = ()
    """Run on the gradient."""
    stop: Callable[[], None] | None = None
    """Ends the forward by raising, when all else here has run."""

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(
            self.forward + other.forward, self.backward + other.backward, self.stop or other.stop
        )


NO_STEPS = Steps()


@attrs.define(eq=False, repr=False)
class Frame:
    """One open scope of one thread or task, on top of the scopes around it.

    A frame belongs to the thread that opened it, or to the asyncio task. Contexts are copied into
    the tasks that a task starts, so the context variable alone does not say whose a frame is.
    """

    own: dict[Place, Steps]
    """What this scope runs where."""
    mute: bool = False
    """Whether this scope has controllers off."""
    task: Any = attrs.field(init=False, factory=lambda: running_task())
    """The asyncio task it belongs to; `None` where it belongs to a thread without one."""
    thread: threading.Thread = attrs.field(init=False, factory=threading.current_thread)
    parent: "Frame | None" = attrs.field(init=False, factory=lambda: visible_frame())
    """The scope around this one."""
    child: "Frame | None" = attrs.field(init=False, default=None)
    closed: bool = attrs.field(init=False, default=False)
    carried: "set[Frame] | None" = attrs.field(init=False, default=None)
    """The frames through which other threads and tasks see this one now; see `carry`.

    `None` as long as none ever did.
    """
    muted: bool = attrs.field(init=False)
    """Whether controllers are off, by this scope or one around it."""
    table: dict[Place, Steps] = attrs.field(init=False)
    """What runs where, the scopes around this one included."""

    def __attrs_post_init__(self) -> None:
        self.muted, self.table, parent = self.mute, self.own, self.parent
        # Merged here, once, and not in a call: a call costs the same in one scope as in ten.
        if parent is not None:
            parent.child = self
            self.muted = self.mute or parent.muted
            self.table = _merged(parent.table, self.own)

    @property
    def lives(self) -> bool:
        """Whether the thread or task that opened it is there still."""
        return self.thread.is_alive() if self.task is None else not self.task.done()

    def running(self, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the entries that run in this scope: none that control, while it is muted."""
        if not self.muted:
            return entries
        return tuple(left for entry in entries if (left := entry.detecting()) is not None)

    def close(self) -> bool:
        """Take this scope's steps out of every table that they are in, whoever calls.

        Return whether it was the innermost one here and was carried nowhere.
        """
        # The mark comes before anything moves: a call of another thread that has this frame in its
        # hand sees it closed, or runs a table that was right when it began.
        # test_scopes_threads.py, `test_closed_in_the_middle_of_a_forward`.
        self.closed = True
        self.table, self.muted = {}, False
        parent, child = self.parent, self.child
        if parent is not None:
            parent.child = child
        if child is not None:  # closed out of order: the scopes inside go on without this one
            child.parent = parent
            child._renew()
        here = show_frame(parent, instead_of=self)  # not in another thread: there `closed` tells
        for carried in list(self.carried or ()):
            carried.close()
        return here and self.carried is None

    def _renew(self) -> None:
        """Work out anew what runs in this scope and those inside it, in whichever thread."""
        frame: Frame | None = self
        while frame is not None:
            parent = frame.parent
            frame.muted = frame.mute or (parent is not None and parent.muted)
            frame.table = frame.own if parent is None else _merged(parent.table, frame.own)
            for carried in frame.carried or ():
                carried.own, carried.mute = frame.table, frame.muted
                carried._renew()
            frame = frame.child


class _OfThread(threading.local):
    frame: Frame | None = None


of_thread = _OfThread()
"""The innermost scope of each thread, where no event loop runs in it."""

_of_task: ContextVar[Frame | None] = ContextVar("tenterhook_frame", default=None)


def running_task() -> Any:
    """Return the asyncio task that runs in this thread, `None` where no loop does."""
    # `asyncio.get_running_loop` raises where there is no loop: looking up a frame would take 3.7
    # times as long.
    return None if _get_running_loop() is None else current_task()


def frame_of_task() -> Frame | None:
    """Return the innermost scope of the task that runs in this thread's event loop."""
    # A task's context is a copy of its parent's, frames included; the parent's frame is not ours.
    # test_scopes_threads.py, `test_child_tasks`.
    frame = _of_task.get()
    return None if frame is None or frame.task is not current_task() else frame


def visible_frame() -> Frame | None:
    """Return the innermost open scope of this thread or task."""
    frame = of_thread.frame if _get_running_loop() is None else frame_of_task()
    while frame is not None and frame.closed:
        frame = frame.parent
    return frame


def steps_here(place: Place) -> Steps:
    """Return what the open scopes of this thread or task run at a place."""
    frame = visible_frame()
    return NO_STEPS if frame is None else frame.table.get(place, NO_STEPS)


def show_frame(frame: Frame | None, *, instead_of: Frame | None = None) -> bool:
    """Have `frame` be the innermost scope here; with `instead_of`, only where that one is now.

    Return whether it is.
    """
    loop = _get_running_loop()
    now = of_thread.frame if loop is None else _of_task.get()
    if instead_of is not None and now is not instead_of:
        return False
    if loop is None:
        of_thread.frame = frame
    else:
        _of_task.set(frame)
    return True


def _merged(outer: dict[Place, Steps], inner: dict[Place, Steps]) -> dict[Place, Steps]:
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
        with lock:
            frame = None if origin is None or origin.closed else _carried(origin)
        try:
            yield
        finally:
            if frame is not None and origin is not None and origin.carried is not None:
                with lock:
                    origin.carried.discard(frame)
                    frame.close()

    return inside(seen, function)


def inside(scope: Callable[[], AbstractContextManager[Any]], function: F) -> F:
    """Return `function` in what `scope` returns, asked anew at each call."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with scope():
            return function(*args, **kwargs)

    @functools.wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        with scope():
            return await function(*args, **kwargs)

    chosen = run_async if is_one(function, inspect.iscoroutinefunction) else run
    return chosen  # type: ignore[return-value]


def is_one(function: Callable[..., Any], *kinds: Callable[[object], bool]) -> bool:
    """Whether a function, or what an object does when it is called, is of one of the kinds."""
    called: Any = function  # as a Callable it has no `__call__` for type checkers
    return any(kind(function) or kind(called.__call__) for kind in kinds)


def _carried(origin: Frame) -> Frame:
    """Open a frame here through which `origin` and the scopes around it are seen."""
    frame = Frame(origin.table, mute=origin.muted)
    seen: Frame | None = origin
    while seen is not None:
        if seen.carried is None:
            seen.carried = set()
        seen = seen.parent
    assert origin.carried is not None
    origin.carried.add(frame)
    show_frame(frame)
    return frame
