"""`model.steer(...)` and `model.hooks(...)`: hooks on layers while a scope is open."""

import inspect
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook._dispatch.entries import Args, Entry, Kwargs, Scoped, entries_for
from tenterhook._dispatch.frames import Place, Steps, lock
from tenterhook._dispatch.sites import Side, site_of
from tenterhook.activations import (
    activation_of,
    first_input,
    inputs_of,
    part_of,
    replace,
    with_item,
    with_part,
)
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Controller, Hook
from tenterhook.layers import Layer
from tenterhook.registry import HookRegistry
from tenterhook.reports import Report, never_ran, no_gradient
from tenterhook.scopes.scope import Scope, add_steps
from tenterhook.scopes.selecting import Selecting, Selector, steps_of

Change = Callable[..., Tensor | None]


class Hooks(Scope):
    """`model.steer(...)` and `model.hooks(...)`: hooks on layers, while the scope is open."""

    def __init__(
        self,
        registry: HookRegistry,
        pairs: Sequence[Any],
        *,
        selection: Selector | None = None,
        missing: Report = "warn",
    ) -> None:
        super().__init__(missing)
        if selection is not None:
            selection.begin(registry.index.module)  # raises now rather than at the first call
        self._selection = selection
        self._registry = registry
        self._pairs = tuple(pairs)
        self._placed: list[tuple[Layer, Hook]] = []
        for pair in self._pairs:
            if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], Hook):
                raise TypeError(f"{pair!r} is not a pair of a layer and a Hook, as (layer, hook).")
            choice, hook = pair
            _check_free(hook)
            if hook.hook_type is HookType.BACKWARD and selection is not None:
                raise ValueError("A selection does not apply to gradients; leave it out.")
            layers = registry.place(choice, hook.hook_type)
            self._placed += [(layer, hook) for layer in layers]
        self._entries: list[tuple[Scoped, ...]] = []
        self._parts: list[SelectedChange] = []

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The hooks, in the order they were given."""
        return tuple(hook for _, hook in self._pairs)

    def _again(self) -> "Hooks":
        return Hooks(self._registry, self._pairs, selection=self._selection, missing=self._missing)

    def _steps(self) -> dict[Place, Steps]:
        for _, hook in self._placed:
            _check_free(hook)
        found = [entries_for(hook, layer.name, self._registry) for layer, hook in self._placed]
        self._entries, self._parts = [], []
        chosen, whole = self._selection, self._registry.index.module
        selecting = None if chosen is None else chosen.begin(whole)
        steps = {} if selecting is None else steps_of(selecting)
        for (layer, hook), entries in zip(self._placed, found, strict=True):
            hook.layer_signature = layer.name
            if selecting is not None:
                entries = parts = tuple(SelectedChange(each, selecting) for each in entries)
                self._parts += parts
            scoped = tuple(map(Scoped, entries))
            self._entries.append(scoped)
            kind = hook.hook_type
            side: Side = "before" if kind is HookType.PRE_FORWARD else "after"
            new = Steps(backward=scoped) if kind is HookType.BACKWARD else Steps(scoped)
            add_steps(steps, site_of(layer.module, side), new)
        with lock:
            for _, hook in self._placed:
                hook._scopes += 1
        try:
            for hook in self.hooks:
                hook.set_context(self._registry.context)
        except BaseException:
            self._closed()
            raise
        return steps

    def _closed(self) -> None:
        for entry in chain.from_iterable(self._entries):  # a later backward() must not find them
            entry.live = False
        with lock:
            for _, hook in self._placed:
                hook._scopes -= 1
        for hook in self.hooks:
            if not hook._scopes:
                hook.set_context(None)

    def _unseen(self) -> list[str]:
        silent = [
            (layer, hook.hook_type is HookType.BACKWARD)
            for (layer, hook), entries in zip(self._placed, self._entries, strict=True)
            if hook.enabled and not any(entry.fired for entry in entries)
        ]
        never = {layer.name: layer.module for layer, backward in silent if not backward}
        unmatched = {
            str(part.layer): part for part in self._parts if part.count and not part.matched
        }
        return [
            *never_ran("A hook never ran at", never),
            *no_gradient([layer.name for layer, backward in silent if backward]),
            *(self._parts[0].selecting.unmatched(list(unmatched)) if unmatched else ()),
        ]


def _check_free(hook: Hook) -> None:
    if hook._registration is not None:
        raise ValueError(f"{hook!r} is registered already, so it runs anyway. Unregister it first.")


class Steering(Controller):
    """The controller of `model.steer(layer, function)`."""

    def __init__(
        self, function: Change, hook_type: HookType | str, field: str | None, item: int | None
    ) -> None:
        super().__init__(hook_type)
        self.function, self.field, self.item = function, field, item
        self._names: dict[nn.Module, str] | None = {} if _asks_where(function) else None

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Any:
        """Return `function` of the activation; before the module ran, of the first input."""
        tensor = inputs if output is None else output
        if tensor is None or self._names is None:
            return None if tensor is None else self.function(tensor)
        # By the module: `layer_signature` may be another thread's, where several are in the scope.
        if module not in self._names and self._context is not None:
            found = {each: name for name, each in self._context.model.named_modules()}
            self._names = found | {self._context.model: "input" if output is None else "output"}
        return self.function(tensor, layer=self._names[module])


def _asks_where(function: Any) -> bool:
    """Whether a function has a parameter `layer` beside the tensor, without a default."""
    code = getattr(getattr(function, "func", function), "__code__", None)
    if code is None or "layer" not in code.co_varnames:  # nearly always, and a signature takes long
        return False
    _, *others = inspect.signature(function).parameters.values()
    return any(each.name == "layer" and each.default is each.empty for each in others)


class SelectedChange(Entry):
    """An entry whose change counts only where a selector says.

    The hook is given the whole activation. What it returns has the same shape, and is mixed into
    the activation through the selector's mask.
    """

    __slots__ = ("count", "entry", "matched", "selecting")

    def __init__(self, entry: Entry, selecting: Selecting) -> None:
        super().__init__(entry.hook, entry.layer, entry.policy)
        self.entry, self.selecting = entry, selecting
        self.count, self.matched = 0, False

    def detecting(self) -> "SelectedChange | None":
        """Return itself where it detects, which it does while controllers are off."""
        return None if self.entry.detecting() is None else self

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run on what the module returned; see `Entry`."""
        return self._surfacing(self._after, module, args, kwargs, output)

    def _after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        given = first_input(inputs_of(module, args, kwargs))
        old = part_of(output, self.entry.path)
        if not self._selected(module, activation_of(old), given):
            return None
        changed = self.entry.after(module, args, kwargs, output)
        if changed is None:
            return None
        new = self._mixed(old, part_of(changed, self.entry.path), module, given)
        return with_part(output, self.entry.path, new)

    def _before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        given = first_input(inputs_of(module, args, kwargs))
        changed = self._selected(module, given, given) and self.entry.before(module, args, kwargs)
        if not changed:
            return None
        added = changed[0][len(args) :]  # what a tuple of inputs holds beyond those passed
        mixed = self._mixed(args[: len(changed[0])], changed[0][: len(args)], module, given)
        return (*mixed, *added), self._mixed(kwargs, changed[1], module, given)

    def _selected(self, module: nn.Module, tensor: Tensor | None, given: Tensor | None) -> bool:
        call, self.count = self.count, self.count + 1
        if tensor is None or call % self.selecting.every:
            return False
        selected = self.selecting.mask(module, tensor, given) is not None
        self.matched = self.matched or selected
        return selected

    def _mixed(self, old: Any, new: Any, module: nn.Module, given: Tensor | None) -> Any:
        """Return `old`, with what `new` has for each of its tensors where that is selected."""
        if new is old:
            return old
        if isinstance(old, tuple | list):
            for place, (was, now) in enumerate(zip(old, new, strict=True)):
                if now is not was:
                    old = with_item(old, place, self._mixed(was, now, module, given))
            return old
        if type(old) is dict:
            return {name: self._mixed(was, new[name], module, given) for name, was in old.items()}
        was, now = activation_of(old), activation_of(new)
        if was is None or now is None or now.shape != was.shape:
            raise ValueError(
                f"A change of a selected part keeps the activation's shape {_shape(was)}; this one "
                f"returned {_shape(now)}."
            )
        mask = self.selecting.mask(module, was, given)
        return old if mask is None else replace(old, torch.where(mask, now.to(was.dtype), was))


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
