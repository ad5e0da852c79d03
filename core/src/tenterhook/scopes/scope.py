"""Hooks for the length of a `with` block, seen only by the thread or task that opened it."""

import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from torch import nn

from tenterhook._dispatch.entries import StopForward
from tenterhook._dispatch.frames import Frame, Steps, is_one, visible_frame
from tenterhook._dispatch.sites import Place, Put, close_frame, open_frame, sites_of
from tenterhook.errors import HookWarning, TenterhookError
from tenterhook.hooks._types import Controller, Detector, HookType
from tenterhook.layers import Layer

if TYPE_CHECKING:
    from tenterhook.registry import HookRegistry

F = TypeVar("F", bound=Callable[..., Any])
Report = Literal["warn", "raise", "ignore"]


class NeverFired(TenterhookError, RuntimeError):
    """A hook of a scope never ran, or saw nothing it was there for."""

    def __init__(self, reports: Sequence[str]) -> None:
        super().__init__(reports)
        self.reports = list(reports)

    def __str__(self) -> str:
        return " ".join(self.reports)


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

    def _puts(self) -> Sequence[Put] | None:
        """Return the short way to all sites of the steps, where it is known; see `open_frame`."""
        return None

    def _result(self) -> Any:
        return self

    def _ended(self) -> None:  # noqa: B027 - nothing, for most
        """Let go of what the scope worked with, when all is reported."""

    def _unseen(self) -> list[str]:
        """Return a sentence for each thing that was to happen and did not."""
        return []

    def __enter__(self) -> Any:
        if self._frame is not None:
            raise RuntimeError("This scope is open already; make another one.")
        self._frame = open_frame(self._steps(), puts=self._puts())
        return self._result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would miss a return after each scope
        self.close()
        try:
            if kind is None or isinstance(error, StopForward):
                self._report()
        finally:
            self._ended()
        return isinstance(error, StopForward) and error.args == (self,)

    def close(self) -> None:
        """End the scope, from whichever thread; a second call does nothing."""
        frame, self._frame = self._frame, None
        if frame is not None:
            close_frame(frame, self._puts())

    def _report(self) -> None:
        reports = self._unseen() if self._missing != "ignore" else []
        if reports and self._missing == "raise":
            raise NeverFired(reports)
        for report in reports:
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
        if is_one(function, inspect.iscoroutinefunction):

            @functools.wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with self._again():
                    return await function(*args, **kwargs)

            return run_async  # type: ignore[return-value]

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return run  # type: ignore[return-value]


class Step:
    """A step of a scope that is no hook; `Entry` says what its methods are called with."""

    __slots__ = ()
    keeps = False
    """Whether it keeps what it sees for the user."""

    def quiet(self) -> "Self":
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


def capturing() -> bool:
    """Whether a capture of this thread or task is open, of whichever model."""
    frame = visible_frame()
    steps = [] if frame is None else [step for s in frame.table.values() for step in s.forward]
    return any(getattr(step, "keeps", False) for step in steps)


def watching(registry: "HookRegistry") -> bool:
    """Whether someone looks at the model here: a detector, or an open capture of this thread."""
    frame = visible_frame()
    steps = [] if frame is None else [step for s in frame.table.values() for step in s.forward]
    hooks = [*registry.get_detectors(), *(getattr(step, "hook", None) for step in steps)]
    return capturing() or any(isinstance(hook, Detector) and hook.enabled for hook in hooks)


def changes_active(registry: "HookRegistry") -> list[str]:
    """Say, sorted, what changes the model's numbers here and now: controllers and replacements.

    Of hooks registered on the model, of enabled ones alone, and of scopes that are open for this
    thread or task; none while controllers are off.
    """
    frame = visible_frame()
    steps = [] if frame is None else [step for s in frame.table.values() for step in s.forward]
    found = [step.change for step in steps if getattr(step, "change", None) is not None]
    if frame is None or not frame.muted:
        hooks = [hook for hook in registry.get_controllers() if hook.enabled]
        scoped = [
            step.hook for step in steps if isinstance(getattr(step, "hook", None), Controller)
        ]
        found += [
            f"{type(hook).__name__} {hook.id} at {hook.layer_signature}"
            for hook in (*hooks, *scoped)
            if hook.hook_type is not HookType.BACKWARD and hook.enabled
        ]
    return sorted(found)


def add_steps(steps: dict[Place, Steps], site: Place, new: Steps) -> None:
    """Have `new` run at `site` after what `steps` holds for it."""
    steps[site] = steps[site] + new if site in steps else new


def never_ran(what: str, layers: Sequence[Layer]) -> str:
    """Return the sentences that say so, and why it may be."""
    names = ", ".join(repr(layer.name) for layer in layers)
    reasons = list(dict.fromkeys(not_called(layer.name, layer.module) for layer in layers))
    if NOT_CALLED in reasons:
        reasons.append(
            "A scope is seen only by the thread or task that opened it; tenterhook.carry takes it "
            "into another."
        )
    return f"{what} {names}: no forward ran there in this scope. {' '.join(reasons)}"


NOT_CALLED = (
    "Code that takes a module's weights, or calls its forward, goes past its hooks; and not every "
    "input needs every module."
)


def not_called(name: str, module: nn.Module) -> str:
    """Return the sentence that says why a module may not have run."""
    if type(module).forward is not nn.Module.forward or "forward" in vars(module):
        return NOT_CALLED
    kind = type(module).__name__
    return f"{name!r} is a {kind} that has no forward, so it never runs: give what it holds."


def nothing_matched(selection: object, layers: Sequence[str]) -> str:
    """Return the sentence that says that a selection selected nothing."""
    return f"{selection} matched no token at {', '.join(map(repr, layers))}."
