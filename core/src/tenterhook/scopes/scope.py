"""What every scope is: hooks for the length of a `with` block, for one thread or task alone.

A kind of scope finds its layers (`_look`), says what runs where (`_opening`) and, when it is over,
what never happened (`_unseen`). The order of events:

1. Building a scope finds its layers, and raises for what the user got wrong. Nothing stands yet.
2. `__enter__` takes an opening that an earlier scope left, or a new one, gives it what is this
   scope's own, and opens a frame with its steps.
3. The model runs; see `tenterhook._dispatch.sites`.
4. `__exit__` closes the frame first, whatever was raised, and reports after that: a report that
   raises finds nothing of ours on the model.
5. The opening goes back to the plan for the next scope, where nobody can be in it any more.
"""

import copy
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from tenterhook._dispatch.entries import StopForward
from tenterhook._dispatch.frames import NO_STEPS, inside, is_one, lock
from tenterhook._dispatch.sites import close_frame, open_frame, sites_of
from tenterhook.errors import HookWarning
from tenterhook.layers import LayerIndex
from tenterhook.reports import Report, one_of, tell
from tenterhook.scopes.plan import CLOSED, Opening, Plan
from tenterhook.scopes.selecting import Selecting, Selector

F = TypeVar("F", bound=Callable[..., Any])


_ENDED_HERE = (
    "stop_after ended the forward and, since the module was called itself, the rest of this `with` "
    "block too. Call what attach() gave instead: it returns None then, and the block goes on."
)


class Scope(ABC):
    """Hooks that run from `__enter__` to `__exit__`, in this thread or task alone.

    Also a decorator, of functions and of coroutine functions: each call opens a scope of its own.
    """

    _mutes = False
    """Whether controllers are off while it is open."""
    _plan: Plan | None = None
    """Where what it opens goes for the next one to use; `None` where nothing is used again."""
    _now: Opening | None = None
    """What it runs while it is open."""
    _is_free = False
    """Whether nobody can be in that when it has been closed."""
    _selecting: Mapping[int, Selecting] = MappingProxyType({})
    """The selectors at work in this opening, by the `id` of each."""

    def __init__(self, registry: Any, asked: Any, *, missing: Report = "warn") -> None:
        """`registry` is the model's `HookRegistry`.

        `asked` is what a kind of scope is of: layers, pairs of layer and hook, ...
        """
        self._missing = one_of("missing", missing, Report)
        self._registry, self._asked = registry, asked
        self._index: LayerIndex = registry.index
        self.model = self._index.module
        """The module that was attached."""
        self._look()

    def _look(self) -> None:  # noqa: B027 - not where there are none
        """Find the layers; raises for what is not there."""

    @abstractmethod
    def _opening(self) -> Opening:
        """Return what runs where, for one opening."""

    def _begin(self, *selectors: Selector | None) -> None:
        """Put selectors to work; raises where one makes no sense for the model."""
        if selectors != (None,):
            self._selecting = {id(s): s.begin(self.model) for s in selectors if s is not None}

    def _again(self) -> Self:
        """Return a scope like this one that has not been opened."""
        again = copy.copy(self)
        again._now = None
        again._look()
        return again

    def _closed(self, opening: Opening) -> None:  # noqa: B027 - nothing, for most
        """Take back what opening did, when nothing of it stands any more; the lock is held."""

    def _unseen(self, opening: Opening) -> list[str]:
        """Return a sentence for each thing that was to happen and did not."""
        return []

    def __enter__(self) -> Any:
        if self._now is not None and self._now.frame is not CLOSED:
            raise RuntimeError("This scope is open already; make another one.")
        self._now = now = self._opening()
        now.scope = self
        now.frame = open_frame(now.steps, now.installs, mute=self._mutes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would miss a return after each scope
        self.close()
        now, self._now = self._now, None
        stopped = isinstance(error, StopForward) and error.args == (self,)
        try:
            if stopped and self._missing != "ignore":
                warnings.warn(_ENDED_HERE, HookWarning, stacklevel=2)
            if now is not None and (kind is None or isinstance(error, StopForward)):
                unmatched = [said for s in self._selecting.values() for said in s.unmatched()]
                tell([*self._unseen(now), *unmatched], self._missing)
        finally:
            if now is not None and self._plan is not None and self._is_free:
                self._plan.give_back(now)
            elif now is not None:
                now.let_go()
        return stopped

    def close(self) -> None:
        """End the scope, from whichever thread; a second call does nothing."""
        with lock:  # of two threads that close it one waits until it has ended
            now = self._now
            if now is not None and now.frame is not CLOSED:
                # Nobody may be in what is used again: not another thread that it was carried into,
                # nor this one, where another closed it, or where it was not the innermost.
                # test_scopes_threads.py, `test_capture_closed_meanwhile`.
                self._is_free = close_frame(now.frame, now.installs)
                now.frame, now.scope = CLOSED, None
                self._closed(now)

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


class Muted(Scope):
    """Every controller of the model is off, for this thread or task, while the scope is open."""

    _mutes = True

    def _opening(self) -> Opening:
        sites = [s for _, m in self._index.named_modules() for s in sites_of(m) if s.held]
        opening = Opening(steps=dict.fromkeys(sites, NO_STEPS))
        self._registry.muting.append(opening)
        return opening

    def _closed(self, opening: Opening) -> None:
        self._registry.muting.remove(opening)
