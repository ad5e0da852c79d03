"""The scopes of `model.hooks(...)`: their hooks run for the thread or task that opened them."""

import threading
from asyncio import _get_running_loop, current_task
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Thread(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.token = object()
        self.opening: LensScope | None = None


_thread = _Thread()


def here() -> object:
    """Return what stands for this asyncio task or, where no loop runs, for this thread."""
    return _thread.token if _get_running_loop() is None else current_task() or _thread.token


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as `torch.compile` leaves it to Python."""
    disable: Any = torch.compiler.disable  # it has no types
    left_alone: Callable[..., Any] = disable(function, reason=_WHY)
    return left_alone


_WHY = (
    "A hook of an open scope (hooks, run_with_hooks, run_with_cache) is at this hook point, and "
    "whether it runs depends on the thread that calls. With fullgraph=True use add_hook before "
    "compiling instead, or leave fullgraph out."
)


def opening() -> "LensScope | None":
    """Return the scope that this thread is attaching hooks for."""
    return _thread.opening


class LensScope:
    """The hooks that one `with model.hooks(...)` attached."""

    def __init__(self, owner: object, level: int, *, compiling: bool = False) -> None:
        self.owner = owner
        """Who sees them, as `here` says; `None` for everyone."""
        self.opener = here()
        self.compiling = compiling
        """Whether the compiler must be kept from looking at whose scope it is."""
        self.level = level
        self.removers: list[Callable[[], None]] = []
        """What detaches them, one each, in the order in which they were attached."""

    def is_seen(self) -> bool:
        """Whether the thread or task that asks sees the scope's hooks."""
        if self.owner is None:
            return True
        return (untraced(here) if self.compiling else here)() is self.owner

    @contextmanager
    def attaching(self) -> Iterator[None]:
        """Have the hooks that this thread attaches in the meantime belong to this scope."""
        before, _thread.opening = _thread.opening, self
        try:
            yield
        finally:
            _thread.opening = before

    def close(self) -> None:
        """Detach the scope's hooks, those that are still there; a second call does nothing."""
        while self.removers:
            self.removers.pop()()


class OpenScopes:
    """The open scopes of one model. A copy or pickle of the model starts with none."""

    def __init__(self) -> None:
        self.scopes: list[LensScope] = []

    def level(self) -> int:
        """Return how many of them this thread or task opened."""
        me = here()
        return sum(scope.opener is me for scope in self.scopes)

    def mine_at(self, level: int | None) -> LensScope | None:
        """Return this thread's or task's scope of a level, if it is open."""
        if level is None or not self.scopes:
            return None
        me = here()
        found = (each for each in self.scopes if each.opener is me and each.level == level)
        return next(found, None)

    def __reduce__(self) -> Any:
        return OpenScopes, ()
