"""`model.capture(...)`: keeps what layers return, in memory that is the user's own."""

import copy
import operator
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook._dispatch.entries import StopForward
from tenterhook._dispatch.frames import Steps, of_thread, visible_frame
from tenterhook._dispatch.sites import Place, Put, Side, Site, puts_of, site_of
from tenterhook.activations import activation_of, first_input, inputs_of
from tenterhook.layers import Layer, LayerChoice, LayerIndex, LayerSpec
from tenterhook.scopes.scope import (
    Report,
    Scope,
    Step,
    add_steps,
    never_ran,
    nothing_matched,
)
from tenterhook_selections.selection import Selection, Watch, check_one_sequence


class Captured(Mapping[str, list[Tensor]]):
    """What a capture saw: for each layer, by every spelling of it, one tensor per call."""

    def __init__(
        self,
        index: LayerIndex,
        calls: dict[str, list[Tensor]],
        places: dict[str, list[Tensor]] | None = None,
    ) -> None:
        self._index = index
        self._calls = calls
        self._places = places or {}

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

    def where(self, layer: LayerSpec) -> list[Tensor]:
        """Return, for each call, where the captured rows stood: long `(n, 2)`, row and position.

        Positions count the real tokens of a row from the first that the model has seen. Raises
        `LookupError` for a capture without a selection of tokens.
        """
        self[layer]
        name = layer if layer in self._places else self._index.resolve(layer).name
        if name not in self._places:
            raise LookupError("Only a capture of selected tokens says where they stood.")
        return self._places[str(name)]

    def by_row(self, layer: LayerSpec) -> list[Tensor]:
        """Return what was seen of each row of the batch, `(tokens, features)`, in token order.

        Of a position that several calls saw, as when a model generates without a cache, the last
        counts. Takes a capture of selected tokens; `tokens=":"` selects them all.
        """
        seen: dict[int, dict[int, Tensor]] = {}
        for values, places in zip(self[layer], self.where(layer), strict=True):
            for value, (row, position) in zip(values, places.tolist(), strict=True):
                seen.setdefault(row, {})[position] = value
        rows = [sorted(seen[row].items()) for row in sorted(seen)]
        return [torch.stack([value for _, value in row]) for row in rows]

    def __contains__(self, layer: object) -> bool:
        return self.get(layer) is not None

    def get(self, layer: Any, default: Any = None) -> Any:
        """Return the tensors seen at `layer`; `default` where it is not captured, or no layer."""
        try:
            return self[layer]
        except LookupError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"Captured({ {name: len(calls) for name, calls in self._calls.items()} })"


class _Stop:
    """Ends the forward."""

    __slots__ = ("scope",)
    scope: Scope | None

    def __call__(self) -> None:
        raise StopForward(self.scope)


def _device(device: torch.device | str | None) -> torch.device | None:
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={device!r} is not a device: 'cpu', 'cuda:0', ...") from None


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(found, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is not a dtype of torch: torch.float16, 'bfloat16', ...")
    return found


@attrs.frozen
class _Form:
    """How tensors are kept."""

    device: torch.device | None = attrs.field(default=None, converter=_device)
    dtype: torch.dtype | None = attrs.field(default=None, converter=_dtype)
    detach: bool = True

    def of(self, tensor: Tensor) -> Tensor:
        """Return a finished copy in memory of its own or, undetached, the tensor in the graph."""
        if not self.detach:
            return tensor.to(device=self.device, dtype=self.dtype)
        device, dtype = self.device or tensor.device, self.dtype or tensor.dtype
        return tensor.detach().to(device, dtype, copy=True)


_PLAIN = _Form()


class _Keep(Step):
    """Keeps what one layer returned, or was given, in memory of its own."""

    __slots__ = ("calls", "form", "kit", "layer")
    keeps = True
    kit: "_Kit"
    calls: list[Tensor]

    def __init__(self, layer: str, form: "_Form") -> None:
        self.layer = layer
        self.form = form

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        tensor = output if type(output) is Tensor else activation_of(output)
        if tensor is None:
            self.kit.without[self.layer] = f"returned {type(output).__name__}"
        else:
            self.calls.append(self.form.of(tensor))

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = first_input(inputs_of(module, args, kwargs))
        if tensor is None:
            self.kit.without[self.layer] = "was called without a tensor"
        else:
            self.calls.append(self.form.of(tensor))


class _KeepPlain(_Keep):
    """Keeps a copy as it is of each tensor: the capture that is nearly always asked for."""

    __slots__ = ("site",)
    site: Site

    def __reduce__(self) -> Any:
        """Return, for a copy of a module in the open scope, one that is of no scope."""
        return type(self), (self.layer, self.form)

    def after_alone(self, site: Site) -> Callable[..., None]:
        """Return what stands at `site` as the torch hook while no other scope is open there."""
        self.site = site
        return self.alone

    def alone(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Add a copy where its scope is the innermost here; else ask the site what runs."""
        if (
            _get_running_loop() is None
            and of_thread.frame is self.kit.frame
            and type(output) is Tensor
        ):
            self.calls.append(output.detach().clone())
            return None
        return self.site.after_scoped(module, args, kwargs, output)


class _KeepSome(_Keep):
    """Keeps the selected part of what one layer returned, or was given."""

    __slots__ = ("matched", "seen_calls", "selection", "watch", "where")

    def __init__(self, layer: str, form: _Form, selection: Selection, watch: Watch) -> None:
        super().__init__(layer, form)
        self.selection = selection
        self.watch = watch
        self.seen_calls = 0
        self.matched = False
        self.where: list[Tensor] = []

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = first_input(inputs_of(module, args, kwargs))
        self._take(activation_of(output), given, f"returned {type(output).__name__}")

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = first_input(inputs_of(module, args, kwargs))
        self._take(given, given, "was called without a tensor")

    def _take(self, tensor: Tensor | None, given: Tensor | None, otherwise: str) -> None:
        call, self.seen_calls = self.seen_calls, self.seen_calls + 1
        if tensor is None:
            self.kit.without[self.layer] = otherwise
        elif call % self.selection.every == 0:
            try:
                some = self._some(tensor, given)
            except (ValueError, IndexError) as error:
                raise type(error)(f"Layer {self.layer!r}: {error}") from None
            self.calls.append(self.form.of(some))

    def _some(self, tensor: Tensor, given: Tensor | None) -> Tensor:
        selection, seen = self.selection, self.watch.seen_for(self.selection, given)
        if selection.of_tokens or selection.rows is not None:
            mask = selection.token_mask(tensor.shape, tensor.device, seen)
            places = mask.nonzero()
            self.matched = self.matched or len(places) > 0
            if selection.of_tokens and seen is not None:
                places = mask.reshape(seen.position.shape).nonzero()
                real = seen.position.to(mask.device)[places[:, 0], places[:, 1]]
                places = torch.stack([places[:, 0], real], 1)
            self.where.append(places.cpu())
            tensor = tensor[mask]
        else:
            self.matched = True
        features = selection.feature_index(tensor.shape[-1], tensor.device)
        return tensor if features is None else tensor.index_select(-1, features)


_get: Callable[[dict[str, Any], str], Any] = dict.get


class _Plan:
    """Which layers a capture looks at, and where they are: found once for each set of names."""

    def __init__(
        self,
        index: LayerIndex,
        layers: Sequence[Layer],
        form: _Form,
        inputs: bool,
        stop: Layer | None,
    ) -> None:
        self.form = form
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
        self._owners = [at for at, _, _ in path.values()]
        self._parts = [part for _, part, _ in path.values()]
        self._children = [child for _, _, child in path.values()]
        self._idle: list[_Kit] = []

    def holds(self) -> bool:
        """Whether the names still mean these modules."""
        found = map(_get, self._owners, self._parts)
        return all(map(operator.is_, found, self._children))

    def take(self) -> "_Kit":
        """Return a kit that no open scope uses."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()

    def give_back(self, kit: "_Kit") -> None:
        """Let a later scope use the kit; what it kept is its scope's alone."""
        for keep in kit.keeps:
            keep.calls = _NOBODYS
        if kit.without:
            kit.without = {}
        if kit.stop is not None:
            kit.stop.scope = None
        self._idle.append(kit)

    def _make(self) -> "_Kit":
        kind = _KeepPlain if self.form == _PLAIN and not any(self.before) else _Keep
        kit = self._kit([kind(layer.name, self.form) for layer in self.layers], {})
        if not any(self.before):
            kit.puts = puts_of(kit.steps)
        return kit

    def selecting(self, selection: Selection, whole: nn.Module) -> "_Kit":
        """Return a kit for one scope that keeps a part of the activations of the model `whole`."""
        watch = Watch(whole)
        keeps = [_KeepSome(layer.name, self.form, selection, watch) for layer in self.layers]
        steps: dict[Place, Steps] = {site_of(whole, "before"): Steps((watch,))}
        return self._kit(keeps, steps)

    def _kit(self, keeps: "Sequence[_Keep]", steps: dict[Place, Steps]) -> "_Kit":
        for keep, site in zip(keeps, self._sites, strict=True):
            only = keep if isinstance(keep, _KeepPlain) else None
            add_steps(steps, site, Steps((keep,), keep=only))
        stop = None
        if self._stop_site is not None:
            stop = _Stop()
            add_steps(steps, self._stop_site, Steps(stop=stop))
        kit = _Kit(keeps, steps, stop)
        for keep in keeps:
            keep.kit = kit
        return kit


class _Kit:
    """The steps of one open capture."""

    __slots__ = ("frame", "keeps", "puts", "steps", "stop", "without")

    def __init__(
        self, keeps: "Sequence[_Keep]", steps: dict[Place, Steps], stop: "_Stop | None"
    ) -> None:
        self.keeps, self.steps, self.stop = keeps, steps, stop
        self.puts: Sequence[Put] | None = None
        self.frame: Any = _CLOSED
        """The frame of the capture that uses it."""
        self.without: dict[str, str] = {}
        """What the layers did that gave no tensor."""

    def fill(self) -> dict[str, list[Tensor]]:
        """Return the lists, by layer, that are filled from now on."""
        calls: dict[str, list[Tensor]] = {}
        for keep in self.keeps:
            calls[keep.layer] = keep.calls = []
        return calls


_CLOSED = object()
_NOBODYS: list[Tensor] = []
"""Where the calls of a layer are while no scope keeps them: nothing is added to it."""


class Capture(Scope):
    """`model.capture(...)`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"A capture has no {name!r} before it is opened: "
            "`with model.capture(...) as captured:` gives what has."
        )

    def __getitem__(self, layer: object) -> Any:
        """Raise `TypeError`: what is captured is had by opening the scope."""
        raise TypeError("Open the capture first: `with model.capture(...) as captured:`.")

    def __init__(
        self,
        index: LayerIndex,
        choices: tuple[LayerChoice, ...],
        *,
        inputs: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        detach: bool = True,
        stop_after: LayerSpec | None = None,
        selection: Selection | None = None,
        missing: Report = "warn",
    ) -> None:
        super().__init__(missing)
        check_one_sequence(selection, index.module)
        self._selection = selection
        self._index = index
        self._plan = _plan_for(index, choices, (device, dtype, detach), inputs, stop_after)
        self._kit: _Kit | None = None
        self._calls: dict[str, list[Tensor]] = {}

    def _again(self) -> "Capture":
        again = copy.copy(self)
        again._frame = again._kit = None
        return again

    def __enter__(self) -> Captured:
        captured: Captured = super().__enter__()
        if self._kit is not None:
            self._kit.frame = self._frame
        return captured

    def _steps(self) -> dict[Place, Steps]:
        plan, selection = self._plan, self._selection
        self._kit = kit = (
            plan.take() if selection is None else plan.selecting(selection, self._index.module)
        )
        self._calls = kit.fill()
        if kit.stop is not None:
            kit.stop.scope = self
        return kit.steps

    def _puts(self) -> Sequence[Put] | None:
        return None if self._kit is None else self._kit.puts

    def _result(self) -> Captured:
        keeps = self._kit.keeps if self._kit else []
        if self._selection is None or not self._selection.of_tokens:
            return Captured(self._index, self._calls)
        places = {keep.layer: keep.where for keep in keeps if isinstance(keep, _KeepSome)}
        return Captured(self._index, self._calls, places)

    def close(self) -> None:
        """End the scope, from whichever thread; a second call does nothing."""
        frame = self._frame
        self._reusable = (  # else another thread may be in it still
            self._selection is None
            and frame is not None
            and frame.carried is None
            and visible_frame() is frame
        )
        super().close()
        if self._kit is not None:
            self._kit.frame = _CLOSED
            _make_own(self._kit.keeps)

    def _ended(self) -> None:
        kit, self._kit, self._calls = self._kit, None, {}
        if kit is not None and self._reusable:
            self._plan.give_back(kit)

    def _unseen(self) -> list[str]:
        if self._selection is None and all(self._calls.values()):
            return []
        keeps, without = ([], {}) if self._kit is None else (self._kit.keeps, self._kit.without)
        reports = [
            f"Layer {layer!r} {what}, which holds no tensor, so nothing was captured."
            for layer, what in without.items()
        ]
        never = [
            layer
            for layer, keep in zip(self._plan.layers, keeps, strict=True)
            if not keep.calls and keep.layer not in without
        ]
        if never:
            reports.append(never_ran("Nothing was captured at", never))
        unmatched = [
            keep.layer
            for keep in keeps
            if isinstance(keep, _KeepSome) and keep.calls and not keep.matched
        ]
        if unmatched:
            reports.append(nothing_matched(self._selection, unmatched))
        return reports


def _make_own(keeps: "Sequence[_Keep]") -> None:
    """Make tensors for autograd of copies that were made in inference mode."""
    first = keeps[0].calls if keeps else None
    if first and first[0].is_inference():
        with torch.inference_mode(False):
            for keep in keeps:
                keep.calls[:] = [t.clone() if t.is_inference() else t for t in keep.calls]


def _plan_for(
    index: LayerIndex,
    choices: tuple[LayerChoice, ...],
    form: tuple[torch.device | str | None, torch.dtype | str | None, bool],
    inputs: bool,
    stop: LayerSpec | None,
) -> _Plan:
    """Return the plan for these layers, the one of last time where it still holds.

    Only dotted names are remembered: what patterns, numbers and predicates mean can change with
    modules that no path leads over.
    """
    key = (choices, form, inputs, stop)
    try:
        plan: _Plan | None = index.plans.get(key)
    except TypeError:  # a list among the choices, which no plan is kept for
        plan = None
    if plan is None or not plan.holds():
        layers = index.expand(choices)
        stop_at = None if stop is None else index.resolve(stop)
        plan = _Plan(index, layers, _Form(*form), inputs, stop_at)
        if [layer.name for layer in layers] == list(choices):
            if len(index.plans) >= _MOST_PLANS:
                index.plans.clear()
            index.plans[key] = plan
    return plan


_MOST_PLANS = 64
