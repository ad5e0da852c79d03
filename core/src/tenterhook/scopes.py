"""Hooks for the length of a `with` block, seen only by the thread or task that opened it."""

import copy
import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from tenterhook._dispatch import Side, Site, close_frame, open_frame, site_of, sites_of
from tenterhook._entries import Scoped, entry_for
from tenterhook._frames import Frame, Steps
from tenterhook.activations import activation_of, first_input, inputs_of
from tenterhook.errors import HookWarning, TenterhookError
from tenterhook.hooks._hook import Controller, Hook, HookType
from tenterhook.layers import Layer, LayerChoice, LayerIndex, LayerSpec

if TYPE_CHECKING:
    from tenterhook.registry import HookRegistry

F = TypeVar("F", bound=Callable[..., Any])
Report = Literal["warn", "raise", "ignore"]
Change = Callable[[Tensor], Tensor | None]


class NeverFired(TenterhookError, RuntimeError):
    """A hook of a scope never ran, or saw nothing it was there for."""

    def __init__(self, reports: Sequence[str]) -> None:
        super().__init__(reports)
        self.reports = list(reports)

    def __str__(self) -> str:
        return " ".join(self.reports)


class StopForward(BaseException):
    """Ends a forward after the last layer that anybody needs.

    No error: `except Exception` in a model's own code must not keep it.
    """


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
    def _steps(self) -> dict[Site, Steps]:
        """Return what runs where, made anew for each opening."""

    @abstractmethod
    def _again(self) -> "Scope":
        """Return a scope like this one that has not been opened."""

    def _result(self) -> Any:
        return self

    def _unseen(self) -> list[str]:
        """Return a sentence for each thing that was to happen and did not."""
        return []

    def __enter__(self) -> Any:
        if self._frame is not None:
            raise RuntimeError("This scope is open already; make another one.")
        self._frame = open_frame(self._steps())
        return self._result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.close()
        if kind is None or isinstance(error, StopForward):
            self._report()
        return isinstance(error, StopForward) and error.args == (self,)

    def close(self) -> None:
        """End the scope, from whichever thread; a second call does nothing."""
        frame, self._frame = self._frame, None
        if frame is not None:
            close_frame(frame)

    def _report(self) -> None:
        reports = self._unseen() if self._missing != "ignore" else []
        if reports and self._missing == "raise":
            raise NeverFired(reports)
        for report in reports:
            warnings.warn(report, HookWarning, stacklevel=3)

    def __call__(self, function: F) -> F:
        """Return `function` in a scope like this one, opened anew for each call."""
        if inspect.iscoroutinefunction(function):

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


class Captured(Mapping[str, list[Tensor]]):
    """What a capture saw: for each layer, by every spelling of it, one tensor per call."""

    def __init__(self, index: LayerIndex, calls: dict[str, list[Tensor]]) -> None:
        self._index = index
        self._calls = calls

    def __getitem__(self, layer: LayerSpec) -> list[Tensor]:
        """Return the tensors seen at `layer`, one per call, in order.

        Raises `KeyError` for a layer that is not captured, `UnknownLayer` for one that is not
        there.
        """
        calls = self._calls.get(layer) if isinstance(layer, str) else None
        if calls is None:
            name = self._index.resolve(layer).name
            calls = self._calls.get(name)
            if calls is None:
                raise KeyError(f"Layer {name!r} is not captured here; {list(self._calls)} are.")
        return calls

    def last(self, layer: LayerSpec) -> Tensor:
        """Return what the last call gave; `LookupError` where there was none."""
        calls = self[layer]
        if not calls:
            raise LookupError(f"Layer {layer!r} has not run in this scope.")
        return calls[-1]

    def cat(self, layer: LayerSpec, dim: int = 0) -> Tensor:
        """Return all calls joined along `dim`; `LookupError` where there was none."""
        self.last(layer)
        return torch.cat(self[layer], dim)

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"Captured({ {name: len(calls) for name, calls in self._calls.items()} })"


class _Step:
    """A step of a scope that is no hook; `Entry` says what its methods are called with."""

    __slots__ = ()

    def quiet(self) -> "Self":
        return self


class _Stop(_Step):
    """Ends the forward."""

    __slots__ = ("scope",)
    scope: Scope

    def after(self, *_: Any) -> None:
        raise StopForward(self.scope)


class _Keep(_Step):
    """Keeps what one layer returned, or was given, in memory of its own."""

    __slots__ = ("calls", "convert", "detach", "layer", "without")

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.calls: list[Tensor] = []
        self.convert: Callable[[Tensor], Tensor] | None = None
        self.detach = True
        self.without: str | None = None

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        tensor = output if type(output) is Tensor else activation_of(output)
        if tensor is None:
            self.without = f"returned {type(output).__name__}"
        elif self.convert is None and self.detach:
            self.calls.append(tensor.detach().clone())
        else:
            self.calls.append(self._kept(tensor))

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = first_input(inputs_of(module, args, kwargs))
        if tensor is None:
            self.without = "was called without a tensor"
        else:
            self.calls.append(self._kept(tensor))

    def _kept(self, tensor: Tensor) -> Tensor:
        if not self.detach:
            return tensor if self.convert is None else self.convert(tensor)
        tensor = tensor.detach()
        new = tensor if self.convert is None else self.convert(tensor)
        return new.clone() if new.data_ptr() == tensor.data_ptr() else new


class _Plan:
    """Which layers a capture looks at, and where they are: found once for each set of names."""

    def __init__(
        self, index: LayerIndex, layers: Sequence[Layer], inputs: bool, stop: Layer | None
    ) -> None:
        self.index = index
        self.layers = tuple(layers)
        self.before = tuple(inputs or layer.name == "input" for layer in layers)
        self.stop = stop
        sides: list[Side] = ["before" if before else "after" for before in self.before]
        self._sites = [site_of(la.module, side) for la, side in zip(layers, sides, strict=True)]
        self._stop_site = None if stop is None else site_of(stop.module, "after")
        named = [
            la.name for la in (*layers, *([stop] if stop else [])) if la.module is not index.module
        ]
        path = {
            (id(at), part): (at, part, child)
            for name in named
            for at, part, child in index.path(name)
        }
        self._path = tuple(path.values())
        self._idle: list[_Kit] = []

    def holds(self) -> bool:
        """Whether the names still mean these modules."""
        return all(at.get(part) is child for at, part, child in self._path)

    def take(self) -> "_Kit":
        """Return a kit that no open scope uses."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()

    def give_back(self, kit: "_Kit") -> None:
        """Let a later scope use the kit; what it kept is its scope's alone."""
        for keep in kit.keeps:
            keep.calls = []
            keep.without = None
        self._idle.append(kit)

    def _make(self) -> "_Kit":
        keeps = [_Keep(layer.name) for layer in self.layers]
        steps: dict[Site, Steps] = {}
        for keep, site in zip(keeps, self._sites, strict=True):
            _add(steps, site, Steps((keep,)))
        stop = None
        if self._stop_site is not None:
            stop = _Stop()
            _add(steps, self._stop_site, Steps((stop,)))
        return _Kit(keeps, steps, stop)


class _Kit:
    """The steps of one open capture."""

    __slots__ = ("keeps", "steps", "stop")

    def __init__(
        self, keeps: "list[_Keep]", steps: dict[Site, Steps], stop: "_Stop | None"
    ) -> None:
        self.keeps, self.steps, self.stop = keeps, steps, stop


class Capture(Scope):
    """`model.capture(...)`."""

    def __init__(
        self,
        index: LayerIndex,
        choices: tuple[LayerChoice, ...],
        *,
        inputs: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        detach: bool = True,
        stop_after: LayerSpec | None = None,
        missing: Report = "warn",
    ) -> None:
        super().__init__(missing)
        self._plan = _plan_for(index, choices, inputs, stop_after)
        self._convert = _conversion(device, dtype)
        self._detach = detach
        self._kit: _Kit | None = None

    def _again(self) -> "Capture":
        again = copy.copy(self)
        again._frame = again._kit = None
        return again

    def __enter__(self) -> Captured:
        captured: Captured = super().__enter__()
        return captured

    def _steps(self) -> dict[Site, Steps]:
        self._kit = kit = self._plan.take()
        if kit.stop is not None:
            kit.stop.scope = self
        for keep in kit.keeps:
            keep.convert = self._convert
            keep.detach = self._detach
        return kit.steps

    def _result(self) -> Captured:
        keeps = self._kit.keeps if self._kit else []
        return Captured(self._plan.index, {keep.layer: keep.calls for keep in keeps})

    def _report(self) -> None:
        super()._report()
        kit, self._kit = self._kit, None
        if kit is not None:
            self._plan.give_back(kit)

    def _unseen(self) -> list[str]:
        keeps = [] if self._kit is None else self._kit.keeps
        silent = [keep for keep in keeps if not keep.calls]
        reports = [
            f"Layer {keep.layer!r} {keep.without}, which holds no tensor, so nothing was captured."
            for keep in keeps
            if keep.without is not None
        ]
        never = [keep.layer for keep in silent if keep.without is None]
        if never:
            reports.append(_never("Nothing was captured at", never))
        return reports


def _plan_for(
    index: LayerIndex, choices: tuple[LayerChoice, ...], inputs: bool, stop: LayerSpec | None
) -> _Plan:
    """Return the plan for these layers, the one of last time where it still holds.

    Only dotted names are remembered: what patterns, numbers and predicates mean can change with
    modules that no path leads over.
    """
    key = (choices, inputs, stop)
    try:
        plan = index.plans.get(key)
    except TypeError:  # a list among the choices
        key, plan = None, None
    if plan is None or not plan.holds():
        layers = index.expand(choices)
        plan = _Plan(index, layers, inputs, None if stop is None else index.resolve(stop))
        if key is not None and [layer.name for layer in layers] == list(choices):
            if len(index.plans) >= _MOST_PLANS:
                index.plans.clear()
            index.plans[key] = plan
    return plan


_MOST_PLANS = 64


class Hooks(Scope):
    """`model.steer(...)` and `model.hooks(...)`: hooks on layers, while the scope is open."""

    def __init__(
        self,
        registry: "HookRegistry",
        pairs: Sequence[tuple[LayerChoice, Hook]],
        *,
        missing: Report = "warn",
    ) -> None:
        super().__init__(missing)
        self._registry = registry
        self._pairs = tuple(pairs)
        self._placed: list[tuple[Layer, Hook]] = []
        for choice, hook in self._pairs:
            if not isinstance(hook, Hook):
                raise TypeError(f"{hook!r} is not a Hook; pass (layer, hook) pairs.")
            if hook._registration is not None:
                raise ValueError(
                    f"{hook!r} is registered already, so it runs anyway. Unregister it first."
                )
            layers = registry.place(choice, hook.hook_type)
            self._placed += [(layer, hook) for layer in layers]
        self._entries: list[Scoped] = []

    def _again(self) -> "Hooks":
        return Hooks(self._registry, self._pairs, missing=self._missing)

    def _steps(self) -> dict[Site, Steps]:
        steps: dict[Site, Steps] = {}
        self._entries = []
        for layer, hook in self._placed:
            hook.set_context(self._registry.context)
            hook.layer_signature = layer.name
            entry = Scoped(entry_for(hook, layer.name, self._registry))
            self._entries.append(entry)
            kind = hook.hook_type
            side: Side = "before" if kind is HookType.PRE_FORWARD else "after"
            backward = kind is HookType.BACKWARD
            new = Steps(backward=(entry,)) if backward else Steps((entry,))
            _add(steps, site_of(layer.module, side), new)
        return steps

    def _unseen(self) -> list[str]:
        never = [str(e.layer) for e in self._entries if not e.fired and e.hook.enabled]
        return [_never("A hook never ran at", never)] if never else []


class Steering(Controller):
    """The controller of `model.steer(layer, function)`."""

    def __init__(self, function: Change, hook_type: HookType | str) -> None:
        super().__init__(hook_type)
        self.function = function

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Any:
        """Return `function` of the activation; before the module ran, of the first input."""
        tensor = inputs if output is None else output
        return None if tensor is None else self.function(tensor)


class Muted(Scope):
    """Every controller of the model is off, for this thread or task, while the scope is open."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__("ignore")
        self._module = module

    def _steps(self) -> dict[Site, Steps]:
        return {}

    def _again(self) -> "Muted":
        return Muted(self._module)

    def __enter__(self) -> "Muted":
        sites = [site for m in self._module.modules() for site in sites_of(m) if site.held]
        self._frame = open_frame({}, sites, mute=True)
        return self


def _add(steps: dict[Site, Steps], site: Site, new: Steps) -> None:
    steps[site] = steps[site] + new if site in steps else new


def _conversion(
    device: torch.device | str | None, dtype: torch.dtype | None
) -> Callable[[Tensor], Tensor] | None:
    if device is None and dtype is None:
        return None
    return lambda tensor: tensor.to(device=device, dtype=dtype)


def _never(what: str, layers: Sequence[str]) -> str:
    return (
        f"{what} {', '.join(map(repr, layers))}: no forward ran there in this scope. A scope is "
        "seen only by the thread or task that opened it; tenterhook.carry takes it into another."
    )
