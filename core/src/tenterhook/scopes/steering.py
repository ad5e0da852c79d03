"""`model.steer(...)` and `model.hooks(...)`: hooks on layers while a scope is open."""

import inspect
import uuid
from asyncio import _get_running_loop
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook._dispatch.entries import Args, Kwargs, entries_for, entry_classes
from tenterhook._dispatch.frames import lock, of_thread
from tenterhook._dispatch.sites import Side
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Edit, Hook, here
from tenterhook.layers import LayerChoice
from tenterhook.reports import never_ran, no_gradient
from tenterhook.scopes.plan import CLOSED, Opening, Part, Plan, Spot, plan_for
from tenterhook.scopes.scope import Scope
from tenterhook.scopes.selecting import Selector, steps_of

Change = Callable[..., Tensor | None]


class Hooks(Scope):
    """`model.steer(...)` and `model.hooks(...)`: hooks on layers, while the scope is open."""

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The hooks, in the order they were given."""
        return tuple(hook for _, hook, _ in self._asked)

    @property
    def calls(self) -> int:
        """Calls of layers in which the hooks ran, since it was opened last; of selected changes,
        those alone in which something was changed."""
        found = [each.receipt.calls for each in self._selecting.values()]
        return sum(found) if found else sum(self._ran)

    @property
    def tokens(self) -> int | None:
        """Tokens that were changed, counted in each call; `None` where nothing selects them."""
        found = [each.receipt.tokens for each in self._selecting.values()]
        return sum(found) if found else None

    @property
    def change(self) -> float | None:
        """With `measure`, the norm of the change through that of what it was made of."""
        found = [each.receipt.change for each in self._selecting.values()]
        return found[0] if found else None

    _ran: Sequence[int] = ()
    _plan: Plan
    _asked: Sequence[tuple[LayerChoice, Hook, Selector | None]]
    """Layer and hook, each with its selector."""

    def _look(self) -> None:
        pairs: tuple[Any, ...] = tuple(self._asked)
        for pair in pairs:
            if not (isinstance(pair, tuple) and len(pair) in (2, 3) and isinstance(pair[1], Hook)):
                raise TypeError(f"{pair!r} is not a pair of a layer and a Hook, as (layer, hook).")
            _check_free(pair[1])
        self._asked = [(*pair, None)[:3] for pair in pairs]
        self._begin(*(selector for _, _, selector in self._asked))
        index = self._index
        kinds = [(hook.hook_type, len(entry_classes(hook))) for hook in self.hooks]
        self._found = [index.find((choice,)) for choice, _, _ in self._asked]

        def planned() -> Plan:
            spots: list[Spot] = []
            for (choice, *_), (kind, count) in zip(self._asked, kinds, strict=True):
                side: Side = "before" if kind is HookType.PRE_FORWARD else "after"
                for at in self._registry.place(choice, kind):
                    spots += [Spot(at.name, at.module, side, kind is HookType.BACKWARD)] * count
            return Plan(spots, Scoped)

        self._plan = plan_for(index.plans, (*self._found, *kinds), planned)

    def _opening(self) -> Opening:
        hooks, registry = self.hooks, self._registry
        for hook in hooks:
            _check_free(hook)
        self._begin(*(selector for _, _, selector in self._asked))
        own: list[Any] = []
        names: list[str] = []
        for (_, hook, selector), found in zip(self._asked, self._found, strict=True):
            entries = entries_for(hook, registry) * len(found.layers)  # its layers share them
            own += map(self._selecting[id(selector)].change, entries) if selector else entries
            names.append(self._plan.spots[len(own) - 1].name)
        if not self._selecting:
            opening = self._plan.take()
        else:
            opening = self._plan.opening(Scoped, steps_of(self._selecting.values()))
        opening.own, opening.ran = own, [0] * len(opening.parts)
        self._ran = opening.ran
        with lock:
            for hook, name, found in zip(hooks, names, self._found, strict=True):
                if hook._scopes or len(found.layers) > 1:
                    hook._several = True
                if not hook._scopes:
                    hook.layer_signature = name
                hook._scopes += 1
        try:
            for hook in hooks:
                hook.set_context(registry.context)
        except BaseException:
            self._closed(opening)
            opening.let_go()
            raise
        return opening

    def _closed(self, opening: Opening) -> None:
        with lock:
            for hook in self.hooks:
                hook._scopes -= 1
        for hook in self.hooks:
            if not hook._scopes:
                hook.set_context(None)

    def _unseen(self, opening: Opening) -> list[str]:
        if all(opening.ran):
            return []
        parts = list(zip(self._plan.spots, opening.parts, strict=True))
        ran = {(spot.name, id(part.hook)) for spot, part in parts if opening.ran[part.at]}
        silent = [s for s, p in parts if p.hook._enabled and (s.name, id(p.hook)) not in ran]
        never = {spot.name: spot.module for spot in silent if not spot.backward}
        gradients = dict.fromkeys(spot.name for spot in silent if spot.backward)
        return [*never_ran("A hook never ran at", never), *no_gradient([*gradients])]


def _check_free(hook: Hook) -> None:
    if hook._registration is not None:
        raise ValueError(f"{hook!r} is registered already, so it runs anyway. Unregister it first.")


class Steering(Edit):
    """The controller of `model.steer(layer, function)`."""

    function: Change

    def __init__(
        self, function: Change, hook_type: Any, field: str | None, item: int | None
    ) -> None:
        super().__init__(hook_type, hook_id="")
        del self.id
        self.function, self.field, self.item = function, field, item

    @cached_property
    def id(self) -> str:  # type: ignore[override]
        """As random as any hook's, but made for those who ask: it takes longer than all else."""
        return str(uuid.uuid4())


class SteeringThere(Steering):
    """One whose function is told where it is."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Any:
        """Return `function` of the activation and the layer's name."""
        tensor = inputs if output is None else output
        return None if tensor is None else self.function(tensor, layer=self.layer_signature)


def steering(*given: Any) -> Steering:
    """Return the controller for a function, told where it is if it asks."""
    return (SteeringThere if _asks_where(given[0]) else Steering)(*given)


def _asks_where(function: Any) -> bool:
    """Whether a function has a parameter `layer` beside the tensor, without a default."""
    code = getattr(getattr(function, "func", function), "__code__", None)
    if code is None or "layer" not in code.co_varnames:  # nearly always, and a signature takes long
        return False
    _, *others = inspect.signature(function).parameters.values()
    return any(each.name == "layer" and each.default is each.empty for each in others)


class Scoped(Part):
    """A hook's entry at one layer of a scope: runs while the hook is enabled."""

    __slots__ = ()

    @property
    def hook(self) -> Any:
        """The hook."""
        return self.opening.own[self.at].hook

    @property
    def selection(self) -> Any:
        """The selector at work, of the part that the hook is for; `None` for everything."""
        return getattr(self.opening.own[self.at], "selecting", None)

    @property
    def live(self) -> bool:
        """Whether its scope is open; `backward()` may come later."""
        return self.opening.frame is not CLOSED

    def detecting(self) -> "Scoped | None":
        """Return itself where it detects, which it does while controllers are off."""
        return None if self.opening.own[self.at].detecting() is None else self

    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run on what the module returned; see `Entry`."""
        return self._run("after", module, args, kwargs, output)

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        """Run on the inputs; see `Entry`."""
        return self._run("before", module, args, kwargs)

    def noted(self, module: nn.Module, args: Args, kwargs: Kwargs, tensor: Tensor) -> Any:
        """Return what `gradient` has to know of this call; see `Entry`."""
        return self.opening.own[self.at].noted(module, args, kwargs, tensor)

    def gradient(self, module: nn.Module, grad: Tensor, noted: Any) -> Any:
        """Run on the gradient; see `Entry`."""
        return self._run("gradient", module, grad, noted)

    def _run(self, method: str, *given: Any) -> Any:
        entry = self.opening.own[self.at]
        hook = entry.hook
        if not hook._enabled:
            return None
        self.opening.ran[self.at] += 1
        new = self._there(hook, getattr(entry, method), *given)
        if new is not None and method != "gradient":
            _mark_checkpoint()
        return new

    def _there(self, hook: Any, run: Callable[..., Any], *given: Any) -> Any:
        """Return `run(*given)`, with the hook told that this thread calls it at this layer."""
        if not hook._several:
            return run(*given)
        before, here.call = here.call, (hook, self.layer)  # it may run the model itself
        try:
            return run(*given)
        finally:
            here.call = before

    def alone(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Stand at the site where nothing else does; see `PlainRecorder.alone`.

        It does what `after` does, spelled out. By the site a call takes 1.3 times as long.
        """
        # test_scopes_again.py, `TestItsOwn`.
        opening, at = self.opening, self.at
        if _get_running_loop() is not None or of_thread.frame is not opening.frame:
            return self.site.after_scoped(module, args, kwargs, output)
        entry = opening.own[at]
        hook = entry.hook
        if not hook._enabled:
            return None
        opening.ran[at] += 1
        if hook._several:  # what `_there` does
            before, here.call = here.call, (hook, self.layer)
            try:
                new = entry.after(module, args, kwargs, output)
            finally:
                here.call = before
        else:
            new = entry.after(module, args, kwargs, output)
        if new is not None and _saving_hooks(True) is not None:
            _mark_checkpoint()
        return new


# Private to torch, so not there in each of its versions: then checkpointed layers do as they can.
_saving_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)


def _mark_checkpoint() -> None:
    """Have `torch.utils.checkpoint` find a run without this change, if it runs the layer again.

    It compares number and shapes of the tensors that the two runs save for backward, and raises
    where they differ. So each change saves one more, of a shape of its own; its second run, if
    that comes after the scope has ended, does not.
    """
    hooks = _saving_hooks(True)
    if hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint":
        save, load = hooks
        # Empty, so it costs no memory; a shape that no layer saves, so it stands for nothing else.
        # test_checkpointing.py, `test_backward_afterwards`.
        kept = vars(load).setdefault("_tenterhook", [])  # `load` lives while backward can come
        kept.append(save(torch.empty(0, 7919)))
