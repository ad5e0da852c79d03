"""What every scope is: hooks for the length of a `with` block, for one thread or task alone.

A kind of scope says what runs where (`_steps`) and, when it is over, what never happened
(`_unseen`). The order of events:

1. Building a scope finds its layers, and raises for what the user got wrong. Nothing stands yet.
2. `__enter__` asks for the steps, made anew for each opening, and opens a frame with them.
3. The model runs; see `tenterhook._dispatch.sites`.
4. `__exit__` closes the frame first, whatever was raised, and reports after that: a report that
   raises finds nothing of ours on the model.
"""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from torch import nn

from tenterhook._dispatch.entries import StopForward
from tenterhook._dispatch.frames import Frame, Place, Steps, inside, is_one, lock
from tenterhook._dispatch.sites import Installs, close_frame, open_frame, sites_of
from tenterhook.errors import HookWarning, NeverFired
from tenterhook.reports import Report

F = TypeVar("F", bound=Callable[..., Any])


_ENDED_HERE = (
    "stop_after ended the forward and, since the module was called itself, the rest of this `with` "
    "block too. Call what attach() gave instead: it returns None then, and the block goes on."
)


class Scope(ABC):
    """Hooks that run from `__enter__` to `__exit__`, in this thread or task alone.

    Also a decorator, of functions and of coroutine functions: each call opens a scope of its own.
    """

    def __init__(self, missing: Report = "warn") -> None:
        if missing not in ("warn", "raise", "ignore"):
            raise ValueError(f"missing={missing!r} is not one of 'warn', 'raise', 'ignore'.")
        self._missing = missing
        self._frame: Frame | None = None

    @abstractmethod
    def _steps(self) -> dict[Place, Steps]:
        """Return what runs where, made anew for each opening."""

    @abstractmethod
    def _again(self) -> "Scope":
        """Return a scope like this one that has not been opened."""

    def _installs(self) -> Installs | None:
        """Return the short way to all sites of the steps, where it is known; see `open_frame`."""
        return None

    def _result(self) -> Any:
        return self

    def _closed(self) -> None:  # noqa: B027 - nothing, for most
        """Take back what opening did, when nothing of it stands any more; the lock is held."""

    def _ended(self) -> None:  # noqa: B027 - nothing, for most
        """Let go of what the scope worked with, when all is reported."""

    def _unseen(self) -> list[str]:
        """Return a sentence for each thing that was to happen and did not."""
        return []

    def __enter__(self) -> Any:
        if self._frame is not None:
            raise RuntimeError("This scope is open already; make another one.")
        self._frame = open_frame(self._steps(), installs=self._installs())
        return self._result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would miss a return after each scope
        self.close()
        stopped = isinstance(error, StopForward) and error.args == (self,)
        try:
            if stopped and self._missing != "ignore":
                warnings.warn(_ENDED_HERE, HookWarning, stacklevel=2)
            if kind is None or isinstance(error, StopForward):
                self._report()
        finally:
            self._ended()
        return stopped

    def close(self) -> None:
        """End the scope, from whichever thread; a second call does nothing."""
        with lock:  # of two threads that close it one waits until it has ended
            frame, self._frame = self._frame, None
            if frame is not None:
                close_frame(frame, self._installs())
                self._closed()

    def _report(self) -> None:
        reports = self._unseen()
        if reports and self._missing == "raise":
            raise NeverFired(reports)
        for report in reports if self._missing == "warn" else ():
            warnings.warn(report, HookWarning, stacklevel=3)

    def __call__(self, function: F) -> F:
        """Return `function` in a scope like this one, opened anew for each call.

        Raises `TypeError` for a generator function, whose callers would run in its scope.
        """
        if is_one(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            name = getattr(function, "__qualname__", function)
            raise TypeError(
                f"{name} is a generator function, which hands over to its caller at each yield. "
                "Open the scope inside it, around what runs the model."
            )
        return inside(self._again, function)


class Step:
    """A step of a scope that is no hook; `Entry` says what its methods are called with."""

    __slots__ = ()
    records = False
    """Whether it keeps what it sees for the user."""

    def detecting(self) -> Self:
        """Return the step itself: it changes nothing, so it runs while controllers are off."""
        return self


class Muted(Scope):
    """Every controller of the model is off, for this thread or task, while the scope is open."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__("ignore")
        self._module = module

    def _steps(self) -> dict[Place, Steps]:
        return {}

    def _again(self) -> "Muted":
        return Muted(self._module)

    def __enter__(self) -> "Muted":
        sites = [site for m in self._module.modules() for site in sites_of(m) if site.held]
        self._frame = open_frame({}, sites, mute=True)
        return self


def add_steps(steps: dict[Place, Steps], site: Place, new: Steps) -> None:
    """Have `new` run at `site` after what `steps` holds for it."""
    steps[site] = steps[site] + new if site in steps else new
