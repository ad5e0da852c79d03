"""The hooks registered on a model: `model.layers`."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Unpack

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tenterhook._dispatch.entries import entries_for
from tenterhook._dispatch.frames import NO_STEPS, lock, visible_frame
from tenterhook._dispatch.sites import site_of, sites_of
from tenterhook.context import HookContext
from tenterhook.errors import LayerConflict, UnknownLayer
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Controller, Detector, Hook
from tenterhook.layers import Layer, LayerChoice, LayerIndex, LayerSpec
from tenterhook.registration import Registration
from tenterhook.reports import Report, not_called, one_of, tell
from tenterhook.scopes.selecting import Selected, selector_of

if TYPE_CHECKING:
    from tenterhook.standard_names import StandardNames

Mix = Literal["error", "in_order", "detect_first", "detect_last"]
"""How detectors and controllers share a layer: not at all, as they were registered, or detectors
before (they see what the module made) or after (they see what the controllers made of it)."""

OnError = Literal["raise", "warn", "disable"]
"""What happens when a hook raises: it surfaces, or the hook is skipped with a warning, for this
call or for good."""


def _choice(name: str, literal: Any) -> Any:
    """Return a property that is one of the values of a `Literal`."""

    def choose(self: Any, value: Any) -> None:
        vars(self)[name] = one_of(name, value, literal)

    return property(lambda self: vars(self)[name], choose)


class HookRegistry:
    """The layers of a model and the hooks registered on them, for everyone, until unregistered.

    Iterates over the hooks; `len` counts them; `hook_id in layers` says whether one is there.
    """

    def __init__(self, module: nn.Module, context: HookContext) -> None:
        self.index = LayerIndex(module)
        self.context = context
        self._held: dict[str, Registration] = {}
        self._mix: dict[str, Mix] = {}
        self.on_error = "raise"
        self.missing = "warn"
        self._never_ran: dict[Registration, None] = {}
        self.around: Callable[[Any], Any] = lambda entry: entry
        """Is given, and returns, the entries of each hook that is registered: what counts them."""
        self.muting: list[Any] = []
        """The openings of each `without_controllers`, which hold for hooks that come meanwhile."""
        self.owner: Callable[[], Any] = lambda: None
        """A weak reference to what carries this registry; hooks keep it while they stand."""
        views = {"_hook_registry": _View(self.by_layer), "_hook_id_map": _View(self.by_id)}
        vars(context).update(views)  # which nobody else may set

    # --- layers

    def list_layers(self, *, points: bool = False) -> list[str]:
        """Return the dotted names of all layers, in `named_modules` order.

        With `points` then those of the points that plugins offer, `z.3`; that may run the model.
        """
        return [*self.index.names(), *(self.index.points().layers if points else ())]

    get_layer_names = list_layers

    def __call__(self, *, stack: str | None) -> "HookRegistry":
        """Have `layer_N` count in this stack of blocks from now on, and return the registry.

        `stack` is a dotted name among `stacks()`; `None` is the one with the most parameters again.
        Raises `UnknownLayer` where it is no stack.
        """
        before, self.index.stack = self.index.stack, stack
        try:
            self.index.stacks()
        except UnknownLayer:
            self.index.stack = before
            raise
        return self

    def stacks(self) -> dict[str, list[str]]:
        """Return the stacks of blocks by dotted name, with their blocks, that of `layer_N` first.

        A model of several parts has several: a vision tower's and the text's.
        """
        return self.index.stacks()

    def list_blocks(self) -> list[str]:
        """Return the dotted names of the main stack's blocks, in order: what `layer_N` means."""
        return self.index.blocks()

    def standard_names(self) -> "StandardNames | None":
        """Return the standard names, `resid_post.3` and so on; `None` where no plugin knows them.

        The layers they mean, and how a block adds up: see `StandardNames`.
        """
        return self.index.standard()  # type: ignore[no-any-return]

    def print_layer_names(self) -> None:
        """Print a table of the layers: name, type, shape of the weight."""
        rows = [("name", "type", "weight")]
        for name, module in self.index.tree().named:
            weight: Any = getattr(module, "weight", None)
            has_shape = isinstance(weight, Tensor) and not is_lazy(weight)
            rows += [(name, type(module).__name__, str(tuple(weight.shape)) if has_shape else "-")]
        names, types = (max(len(row[at]) for row in rows) for at in (0, 1))
        for name, kind, weight in rows:
            print(f"{name:<{names}}  {kind:<{types}}  {weight}")  # noqa: T201

    # --- registering

    on_error: OnError = _choice("on_error", OnError)
    """What happens when a hook raises: `"raise"`, `"warn"` or `"disable"`."""

    missing: Report = _choice("missing", Report)
    """What happens when the model has run and a hook never did: `"warn"`, `"raise"`, ..."""

    def due(self) -> list[tuple[Registration, object]]:
        """Return the hooks that never ran yet and that a run which begins now is to come by."""
        if not self._never_ran:
            return []
        with lock:
            return [(held, held.due) for held in self._never_ran if held.due is not None]

    def report(self, due: list[tuple[Registration, object]]) -> None:
        """Report, once, those of `due` that never ran, when a run of the model has ended.

        So it is with those whose selection matched nothing, if a later run may not as well.
        Raises `NeverFired` where `missing` is `"raise"`. Not while controllers are off.
        """
        if getattr(visible_frame(), "muted", False):
            return
        silent, unmatched = [], []
        with lock:
            for held, since in due:
                if held.due is since and held in self._never_ran:
                    del self._never_ran[held]
                    if held.hook._enabled and not any(each.fired for each in held.entries):
                        silent.append(held)
                    unmatched += held.unmatched(so_far=True)
        tell([*self._why_silent(silent), *unmatched], self.missing, stacklevel=4)

    def _why_silent(self, silent: list[Registration]) -> list[str]:
        reasons: dict[str, list[str]] = {}
        places = {place: at for _, at in self.index.named_modules() for place in sites_of(at)}
        for held in silent:
            why = "The module that it was registered on is not there any more: register again."
            if held.site in places:
                why = not_called(held.layer, places[held.site])
            said = f"{type(held.hook).__name__} {held.hook.id!r} at {held.layer!r}"
            reasons.setdefault(why, []).append(said)
        return [
            f"The model ran, and not what was registered on it: {', '.join(who)}. {why}"
            for why, who in reasons.items()
        ]

    def register_hook(
        self,
        layer_signature: LayerSpec,
        hook: Hook,
        hook_type: HookType | str | None = None,
        *,
        prepend: bool = False,
        priority: int = 0,
        mix: Mix | None = None,
        permanent: bool = False,
        **selected: Unpack[Selected],
    ) -> str:
        """Attach `hook` to a layer and return its id.

        Hooks of one layer run in the order of their registration; those with a higher `priority`
        before the others, one with `prepend` before those of its priority. `mix` lets detectors
        and controllers share the layer, in the order it names, from now on. `hook_type` replaces
        the hook's own. A `permanent` hook survives `clear`. With a selection (see `Selection`) it
        runs for that part alone, as in `hooks`.

        Raises `UnknownLayer`, `LayerConflict` (detector and controller on one layer) or
        `ValueError` (an id that is taken, a hook that is registered); each a `ValueError`, and
        nothing is changed by a registration that fails.
        """
        if not isinstance(hook, Hook):
            raise TypeError(
                f"{hook!r} is not a Hook. Subclass Detector or Controller; for a plain function "
                "use FunctionController or model.steer(layer, function)."
            )
        kind = hook.hook_type if hook_type is None else HookType(hook_type)
        (layer,) = self.place(layer_signature, kind, several=False)
        selector = selector_of(selected)
        if mix is not None:
            one_of("mix", mix, Mix)
        if not isinstance(priority, int):
            raise TypeError(f"priority={priority!r} is not an int.")
        with lock:
            self._check_free(hook)
            chosen = mix or self._mix.get(layer.name, "error")
            self._check_kinds(layer, hook, chosen)
            site = site_of(layer.module, "before" if kind is HookType.PRE_FORWARD else "after")
            before = hook.hook_type, hook.layer_signature
            hook.hook_type, hook.layer_signature = kind, layer.name
            try:
                entries = tuple(map(self.around, entries_for(hook, self)))
                selecting = None if selector is None else selector.begin(self.index.module)
                hook.set_context(self.context)
            except BaseException:
                hook.hook_type, hook.layer_signature = before
                hook._context = None
                raise
            held = Registration(hook, layer.name, site, entries, self._drop)
            held.priority, held.permanent, held.owner = priority, permanent, self.owner()
            held.selection = selector
            if selecting is not None:
                held.begin(selecting)
            order = (held, *site.held) if prepend else (*site.held, held)
            self._held[hook.id] = held
            if kind is not HookType.BACKWARD:
                self._never_ran[held] = None
            if mix is not None:
                self._mix[layer.name] = mix
            hook._registration = held
            for opening in (each for each in self.muting if site not in each.steps):
                opening.steps[site] = NO_STEPS
                site.scopes += 1
            site.hold(_ordered(order, chosen))
        return hook.id

    def unregister_hook(self, hook_or_id: Hook | str) -> bool:
        """Take a hook off, by instance or id; `False` if it is not registered here.

        Reports, as `missing` says, a selection that matched nothing all the while.
        """
        held = self._find(hook_or_id)
        return held is not None and bool(self._drop(held))

    def _find(self, hook_or_id: object) -> Registration | None:
        id = hook_or_id.id if isinstance(hook_or_id, Hook) else hook_or_id
        held = self._held.get(id) if isinstance(id, str) else None
        is_other = held is not None and isinstance(hook_or_id, Hook) and held.hook is not hook_or_id
        return None if is_other else held

    def clear(self, *, including_permanent: bool = False) -> int:
        """Unregister all hooks, permanent ones only if asked; return how many went."""
        held = list(self._held.values())
        return self._drop(*(h for h in held if including_permanent or not h.permanent))

    def _drop(self, *going: Registration) -> int:
        with lock:
            gone = [held for held in going if self._held.get(held.hook.id) is held]
            for held in gone:
                self._take_off(held)
        tell([said for h in gone for said in h.unmatched()], self.missing, stacklevel=4)
        return len(gone)

    def _take_off(self, held: Registration) -> None:
        del self._held[held.hook.id]
        self._never_ran.pop(held, None)
        for entry in held.entries:
            entry.live = False
        held.owner = None
        held.end()
        held.hook._registration = None
        if held.layer in self._mix and held.layer not in {h.layer for h in self._held.values()}:
            del self._mix[held.layer]
        held.hook.set_context(None)

    def place(self, asked: LayerChoice, kind: HookType, *, several: bool = True) -> list[Layer]:
        """Return the layers that a hook of this kind goes to when `asked` is asked for.

        The whole model has a name on each side. Raises `UnknownLayer`, and `ValueError` where a
        hook of this kind does not run on the side that was asked for.
        """
        layers = self.index.find((asked,)).layers if several else (self.index.resolve(asked),)  # type: ignore[arg-type]
        return [self._on_side(layer, asked, kind) for layer in layers]

    def _on_side(self, layer: Layer, asked: Any, kind: HookType) -> Layer:
        if layer.module is not self.index.module:
            return layer
        side = "input" if kind is HookType.PRE_FORWARD else "output"
        if asked not in ("", side):
            raise ValueError(
                f"A {kind} hook does not run at {asked!r}. Register it at {side!r}, or give "
                f"hook_type={'pre_forward' if asked == 'input' else 'forward'!r}."
            )
        return self.index.whole(side)

    def _check_free(self, hook: Hook) -> None:
        if hook._registration is not None:
            where = f"is registered already, on layer {hook.layer_signature!r}"
            raise ValueError(f"{hook!r} {where}. Unregister it first, or make another hook.")
        if hook._scopes:
            then = "Register it once the scope has ended, or make another hook."
            raise ValueError(f"{hook!r} runs in an open scope already. {then}")
        other = self._held.get(hook.id)
        if other is not None:
            then = "Ids are unique in a model: give another hook_id, or none to get a fresh one."
            raise ValueError(f"Hook id {hook.id!r} is taken by {other.hook!r}. {then}")

    def _check_kinds(self, layer: Layer, hook: Hook, mix: Mix) -> None:
        if mix != "error" or (hook.detects and hook.controls):
            return
        whole = layer.module is self.index.module
        for held in (held for site in sites_of(layer.module) for held in site.held):
            standing = held.hook
            # The model's input and output are two layers of one module.
            is_other = whole and held.layer != layer.name and standing.id in self._held
            both = standing.detects and standing.controls
            if standing.detects != hook.detects and not (held.looks_on or is_other or both):
                raise LayerConflict(layer.name, repr(hook), repr(standing))

    def mix_of(self, layer: str) -> Mix | None:
        """Return how detectors and controllers share a layer; `None` where nobody said."""
        return self._mix.get(layer)

    # --- asking

    def get_hooks(
        self, layer_signature: LayerSpec | None = None, hook_type: HookType | str | None = None
    ) -> list[Hook]:
        """Return the hooks, of one layer or type if given, each layer's in the order they run."""
        kind = None if hook_type is None else HookType(hook_type)
        names = {"", "input", "output"}
        if layer_signature not in (None, ""):
            names = {self.index.resolve(layer_signature).name}
        return [
            held.hook
            for held in self._in_order()
            if (layer_signature is None or held.layer in names) and kind in (None, held.hook_type)
        ]

    def get_detectors(self) -> list[Detector]:
        """Return the hooks that detect; one that also controls is among them."""
        return [hook for hook in self.get_hooks() if isinstance(hook, Detector)]

    def get_controllers(self) -> list[Controller]:
        """Return the hooks that control; one that also detects is among them."""
        return [hook for hook in self.get_hooks() if isinstance(hook, Controller)]

    def get_hook(self, hook_id: str) -> Hook | None:
        """Return the hook with this id, `None` if there is none."""
        held = self._held.get(hook_id)
        return None if held is None else held.hook

    def enable_hook(self, hook_id: str) -> bool:
        """Enable a hook; `False` if there is none with this id."""
        return self._switch(hook_id, True)

    def disable_hook(self, hook_id: str) -> bool:
        """Disable a hook; `False` if there is none with this id."""
        return self._switch(hook_id, False)

    def enable_all_hooks(self) -> None:
        """Enable every registered hook."""
        for hook in self:
            hook.enable()

    def disable_all_hooks(self) -> None:
        """Disable every registered hook."""
        for hook in self:
            hook.disable()

    def _switch(self, hook_id: str, on: bool) -> bool:
        hook = self.get_hook(hook_id)
        if hook is not None:
            (hook.enable if on else hook.disable)()
        return hook is not None

    def __contains__(self, hook_or_id: object) -> bool:
        return self._find(hook_or_id) is not None

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.get_hooks())

    def __len__(self) -> int:
        return len(self._held)

    # --- what HookContext shows, and people inspect

    def by_layer(self) -> dict[str, dict[HookType, list[tuple[Hook, Registration]]]]:
        """Return `{layer: {hook_type: [(hook, handle), ...]}}`, each list in the order it runs."""
        found: dict[str, dict[HookType, list[tuple[Hook, Registration]]]] = {}
        for held in self._in_order():
            kinds = found.setdefault(held.layer, {})
            kinds.setdefault(held.hook_type, []).append((held.hook, held))
        return found

    def by_id(self) -> dict[str, tuple[str, HookType, Hook]]:
        """Return `{hook_id: (layer, hook_type, hook)}`, in the order of registration."""
        return {h.hook.id: (h.layer, h.hook_type, h.hook) for h in list(self._held.values())}

    def entries(self) -> list[Any]:
        """Return what runs of the registered hooks, in the order of registration."""
        return [entry for held in list(self._held.values()) for entry in held.entries]

    def _in_order(self) -> list[Registration]:
        """The registrations, layers in the order of their first hook, hooks as they run."""
        with lock:
            sites = dict.fromkeys(held.site for held in self._held.values())
            standing: list[Registration] = [held for site in sites for held in site.held]
            return [held for held in standing if self._held.get(held.hook.id) is held]

    def __repr__(self) -> str:
        return f"HookRegistry({len(self)} hooks on {len(self.by_layer())} layers)"


class _View(Mapping[Any, Any]):
    """A mapping of what stands in a registry, made anew each time it is read; empty without one."""

    def __init__(self, make: Callable[[], Mapping[Any, Any]]) -> None:
        self._make = weakref.WeakMethod(make)  # a model is freed as soon as it is dropped

    def _now(self) -> Mapping[Any, Any]:
        make = self._make()
        return {} if make is None else make()

    def __getitem__(self, key: Any) -> Any:
        return self._now()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __repr__(self) -> str:
        return repr(self._now())


def _ordered(held: tuple[Registration, ...], mix: Mix) -> tuple[Registration, ...]:
    def rank(one: Registration) -> tuple[int, int]:
        control = isinstance(one.hook, Controller)
        late = {"detect_first": control, "detect_last": not control}.get(mix, False)
        return (-1 if one.looks_on else int(late), -one.priority)

    return tuple(sorted(held, key=rank))
