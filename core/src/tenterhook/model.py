"""What a user attaches to any `nn.Module`: its layers, its hooks, its scopes."""

import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn

from tenterhook._dispatch.entries import StopForward
from tenterhook._dispatch.frames import lock
from tenterhook._dispatch.sites import left_open, sites_of
from tenterhook.activations import path_to
from tenterhook.context import HookContext
from tenterhook.errors import NotClean
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Hook
from tenterhook.html import tree
from tenterhook.layers import LayerChoice, LayerSpec
from tenterhook.one_line import shown, type_name
from tenterhook.registry import HookRegistry, OnError
from tenterhook.reports import Report
from tenterhook.scopes.capturing import CaptureScope
from tenterhook.scopes.replacing import Replaced
from tenterhook.scopes.scope import Muted
from tenterhook.scopes.selecting import Selected, Selector, selector_of
from tenterhook.scopes.steering import Change, Hooks, steering

if TYPE_CHECKING:
    from tenterhook.capture import HookMetrics
    from tenterhook.specs import Given, HookSpec, ModelSpec
    from tenterhook.taps import Taps


def _of_the_layers(name: str) -> Any:
    """Return a property that is the registry's of that name."""
    return property(
        lambda self: getattr(self.layers, name),
        lambda self, value: setattr(self.layers, name, value),
    )


class HookedModel:
    """A module with its layers, hooks and scopes; runs the module when called.

    Made by `attach`. The module works as before and can be called directly, hooks included.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        model_id: str | None = None,
        tokenizer: Any = None,
        store: Any = None,
        special_token_ids: Sequence[int] | None = None,
        on_error: OnError = "raise",
        missing: Report = "warn",
    ) -> None:
        self.module = module
        given = {"tokenizer": tokenizer, "store": store, "special_token_ids": special_token_ids}
        self.context = HookContext(module, model_id=model_id or "", **given)
        self.layers = HookRegistry(module, self.context)
        self.layers.owner = weakref.ref(self)
        self.layers.on_error = on_error
        self.layers.missing = missing

    def adopt(self, registry: HookRegistry) -> None:
        """Take the hooks that stand already, with their context, for this object's own."""
        given, self.context, self.layers = self.context, registry.context, registry
        registry.owner = weakref.ref(self)
        self.context.take(given)

    def __reduce__(self) -> Any:
        """Return what makes a copy, of this class and as it was set, without hooks and store."""
        settings = {
            "model_id": self.context.model_id,
            "tokenizer": self.context.tokenizer,
            "special_token_ids": self.context._special_token_ids,
            "on_error": self.on_error,
            "missing": self.missing,
        }
        own = {n: v for n, v in vars(self).items() if n not in ("module", "context", "layers")}
        return _copied, (type(self), self.module, settings, own)

    on_error: OnError = _of_the_layers("on_error")
    """What happens when a hook raises: `"raise"`, `"warn"` or `"disable"`."""

    missing: Report = _of_the_layers("missing")
    """What is done about a registered hook that never ran, though the model was called: `"warn"`,
    `"raise"` or `"ignore"`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module and return its output; `None` where a scope's `stop_after` ended it.

        A registered hook that the first run of the model never came by is reported at its end,
        once, as `missing` says.
        """
        due = self.layers.due()
        try:
            output = self.module(*args, **kwargs)
        except StopForward as stop:
            whole = getattr(stop.args[0], "model", None)
            if whole is not self.module and _runs(whole):
                raise  # this one was called by the forward that is to end
            return None
        if due:
            self.layers.report(due)
        return output

    def capture(
        self,
        *layers: LayerChoice,
        inputs: bool = False,
        field: str | None = None,
        item: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        detach: bool = True,
        stop_after: LayerSpec | None = None,
        budget: float | str | None = None,
        store: Any = None,
        missing: Report = "warn",
        **selected: Unpack[Selected],
    ) -> CaptureScope:
        """Keep what `layers` return, or with `inputs` are given, while the scope is open.

        `with model.capture("transformer.h.*.mlp") as captured:` gives a `Captured`. Layers are
        names, indices, `layer_N`, glob patterns or predicates of name and module. The tensors
        are copies, on `device` and in `dtype`, by default the layer's own; with `detach=False`
        they are the model's tensors in the graph, for gradients. `field` and `item` choose another
        part of an output than the activation, as with `steer`. `stop_after` ends each forward
        once that layer has run. `missing` says what happens when a layer never ran, or nothing
        was selected: `"warn"`, `"raise"` or `"ignore"`.

        `tokens`, `phase`, `rows`, `features`, `heads`, `every`, `step`, or a `selection` of them,
        keep a part: see `Selection`. Of selected tokens the tensors are `(n, features)`, in the
        order of the rows and of the tokens in each, and `captured.where(layer)` says which they
        are.

        `budget` is how much memory the tensors may take together, in bytes or as `"2GiB"`. One more
        is an `OverBudget` of `tenterhook.store`, a `MemoryError` that names the layer; or it goes
        to `store`, if that is given, and is loaded whenever it is read.

        Raises `UnknownLayer` (a `ValueError`) at once, naming the closest layers.
        """
        selector = selector_of(selected)
        path = path_to(field, item)
        if path and inputs:
            raise ValueError(f"field={field!r} and item={item!r} are of outputs; leave inputs out.")
        room = None
        if budget is not None or store is not None:
            from tenterhook.store import CaptureBudget

            room = CaptureBudget.of(budget, store, detach=detach)
        asked = layers, (device, dtype, detach, path), inputs, stop_after, room, selector
        return CaptureScope(self.layers, asked, missing=missing)

    def steer(
        self,
        layer: LayerChoice,
        change: "Change | Hook | torch.Tensor",
        *,
        hook_type: HookType | str | None = None,
        field: str | None = None,
        item: int | None = None,
        measure: bool = False,
        missing: Report = "warn",
        **selected: Unpack[Selected],
    ) -> Hooks:
        """Apply `change` at `layer` while the scope is open.

        A function takes the activation and returns what takes its place, or `None` to leave it;
        `hook_type` says of what side (`"forward"` by default). `field` and `item` choose another
        part of an output: a field by its name, an item of a tuple or list, an item of a field. A
        function with another parameter `layer` is told where it is, by the layer's name. Or a
        `Controller`, with all that of its own. With a selection (see `Selection`) the change is
        made of the whole activation and counts only where it says; it keeps the shape then. Or a
        tensor, as a capture with the same selection gave it, which is put in its place row by row.

        `with model.steer(...) as receipt:` says what was changed: `receipt.calls`, of a selection
        `receipt.tokens`, and with `measure` how large the change was, `receipt.change`.
        """
        selector = selector_of(selected)
        if selector is not None and isinstance(change, torch.Tensor):
            from tenterhook.selections import PutBack

            change = PutBack(change)
        if isinstance(change, Hook):
            kind = None if hook_type is None else HookType(hook_type)
            for name, value in {"hook_type": kind, "field": field, "item": item}.items():
                if value not in (None, getattr(change, name, None)):
                    raise ValueError(f"{change!r} has its own {name}; leave {name} out.")
            hook: Hook = change
        elif callable(change):
            hook = steering(change, hook_type or HookType.FORWARD, field, item)
        else:
            raise TypeError(f"{change!r} is neither a function of a tensor nor a Controller.")
        if measure:
            from tenterhook.selections import measured

            selector = measured(selector)
        return Hooks(self.layers, [(layer, hook, selector)], missing=missing)

    def hooks(
        self,
        *pairs: tuple[LayerChoice, Hook] | tuple[LayerChoice, Hook, Selector | None],
        missing: Report = "warn",
        **selected: Unpack[Selected],
    ) -> Hooks:
        """Have the hooks run at their layers while the scope is open.

        With a selection (see `Selection`), or one in a pair's third place, a controller's change
        counts only where it says, and a detector sees that part alone, as a capture keeps it.
        """
        if (selector := selector_of(selected)) is not None:
            pairs = tuple(pair if len(pair) > 2 else (*pair, selector) for pair in pairs)
        return Hooks(self.layers, pairs, missing=missing)

    def replace(self, layer: LayerChoice, output: Any, *, missing: Report = "warn") -> Replaced:
        """Have `output` be what `layer` returns while the scope is open; the layer does not run.

        `output` has the structure that the layer returns (a tuple where it returns a tuple), or is
        a function of the layer's inputs that returns it. Where the function returns
        `NotImplemented`, a scope around this one answers, else the layer runs. Hooks on the layer
        see what is returned.
        """
        return Replaced(self.layers, (layer, output), missing=missing)

    def without_controllers(self) -> Muted:
        """Have every controller off while the scope is open, for this thread or task alone."""
        return Muted(self.layers, None, missing="ignore")

    def describe(self) -> "ModelSpec":
        """Return the hooks registered on the model, and `on_error`, as a value.

        It is written to TOML, YAML or JSON by `tenterhook.specs.write_spec`, and `apply` puts the
        same hooks on another model. Raises `NotDescribable` (a `TypeError`) for a hook that no
        spec can say: one with a lambda, or of a class that cannot be imported.
        """
        from tenterhook.specs import describe

        return describe(self.layers)

    def apply(self, spec: "Given", *, allow: Sequence[str] = ()) -> list[str]:
        """Register the hooks of a spec, all or none, and return their ids.

        `spec` is a `ModelSpec` or `HookSpec` of `tenterhook.specs`, plain values that say one, or
        a `.toml`, `.yaml` or `.json` file. Hooks are named as plugins register them; functions, and
        classes of one's own, by import path, and only from the modules and packages in `allow`.

        Raises `BadSpec` (a `ValueError`) with the path to each mistake, `NotAllowed`, and what
        registering raises.
        """
        from tenterhook.specs import apply

        return apply(self.layers, spec, allow=allow)

    def scoped(
        self,
        spec: "ModelSpec | HookSpec | Mapping[str, Any]",
        *,
        hooks: "Collection[str] | Mapping[str, type[Hook]]",
        max_elements: int = 2**24,
        missing: Report = "warn",
    ) -> Hooks:
        """Have the hooks of a spec from a stranger, such as a request, run while the scope is open.

        `hooks` are the classes that it may name: by the names that plugins register them under, or
        a mapping of names to classes. Each declares `elements(parameters)`, how many elements of
        tensors a hook would hold; together they may hold `max_elements`. Sizes and all else are
        checked before a hook is made. `scope.hooks` are the hooks, in the order of the spec.

        Raises `BadSpec` (a `ValueError`) with the path to each mistake, and `TypeError` for a
        class that does not declare its size, and for a file.
        """
        from tenterhook.specs import scoped

        return scoped(self, spec, hooks=hooks, max_elements=max_elements, missing=missing)

    def taps(self, *layers: LayerChoice | Iterable[LayerChoice]) -> "Taps":
        """Place taps at `layers`, which go on working in what `torch.compile` makes of the model.

        `taps = model.taps("layer_3", "resid_post.*")` before compiling, once: what they capture and
        change is switched while the model runs, and nothing is compiled anew. See
        `tenterhook.taps.Taps`. Raises `UnknownLayer` (a `ValueError`).
        """
        from tenterhook.taps import Taps

        return Taps(self, *layers)

    def metrics(self) -> "HookMetrics":
        """Count and time what each registered hook does, from the first call of this on.

        It gives the same object until that is closed. See `tenterhook.capture.HookMetrics`.
        """
        from tenterhook.capture import HookMetrics

        return HookMetrics.of(self.layers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.context.model_id!r}, {len(self.layers)} hooks)"

    def _repr_html_(self) -> str:
        hooks: dict[str, str] = {}
        for hook in self.layers:
            where = str(hook.layer_signature)
            hooks[where] = f"{hooks.get(where, '')} {shown(hook)}"
        at: dict[str, dict[str, Any]] = {"": {}}
        for name, module in [*self.module.named_modules()][1:]:
            parent, _, child = name.rpartition(".")
            at[name] = at[parent][f"{child}: {type_name(module)}{hooks.pop(name, '')}"] = {}
        # What is left stands at the model as a whole, or at points.
        at[""] |= {f"{name}:{of}": {} for name, of in hooks.items()}
        return tree(repr(self), at[""])


def _runs(module: nn.Module | None) -> bool:
    """Whether a call of the module is under way in this thread, and led here."""
    at: Any = sys._getframe(2)
    while at and (at.f_code.co_name != "_call_impl" or at.f_locals.get("self") is not module):
        at = at.f_back
    return at is not None


_registries: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[HookRegistry]]" = (
    weakref.WeakKeyDictionary()
)


def attach(
    module: "nn.Module | HookedModel",
    *,
    make: Callable[..., HookedModel] = HookedModel,
    **settings: Any,
) -> HookedModel:
    """Return the object that carries `module`'s layers, hooks and scopes.

    Attaching twice to one module gives the same object, for as long as somebody holds it or a
    hook is registered. What `torch.compile` returned stands for the module it was made of; call it
    yourself to run compiled. `settings` are those of `HookedModel`.

    Raises `TypeError` for anything but an `nn.Module`.
    """
    if isinstance(module, HookedModel):
        return module
    compiled_of = getattr(module, "_orig_mod", None)
    if isinstance(compiled_of, nn.Module):
        return attach(compiled_of, make=make, **settings)
    if not isinstance(module, nn.Module):
        raise TypeError(f"attach takes an nn.Module, not {type(module).__name__}.")
    with lock:
        standing = _registries.get(module, lambda: None)()
        model: HookedModel | None = None if standing is None else standing.owner()
        if model is None:
            model = make(module, **settings)
            if standing is not None:  # hooks stand that were registered on what nobody held
                model.adopt(standing)
            _registries[module] = weakref.ref(model.layers)
        elif settings:
            raise ValueError(
                f"{type(module).__name__} is attached already; set {', '.join(settings)} on its "
                "context instead."
            )
    return model


def _copied(
    kind: type[HookedModel], module: nn.Module, settings: dict[str, Any], own: dict[str, Any]
) -> HookedModel:
    def make(module: nn.Module) -> HookedModel:
        model = kind.__new__(kind)
        HookedModel.__init__(model, module, **settings)
        vars(model).update(own)
        return model

    return attach(module, make=make)


_LEFT = ", {} of them left by threads or tasks that ended (close() ends one; a deepcopy has none),"


def assert_clean(module: nn.Module | HookedModel) -> None:
    """Raise `NotClean` if any hook or scope of ours is still on `module` or inside it.

    A module of a plugin that keeps hooks of its own says so by a method `attached_hooks()`, which
    returns a phrase for each kind of them.
    """
    root = module.module if isinstance(module, HookedModel) else module
    places = []
    standing = _registries.get(root, lambda: None)()
    for name, inner in root.named_modules() if standing is None else standing.index.named_modules():
        for site in sites_of(inner):
            what = [repr(held.hook) for held in site.held]
            if site.scopes:
                left = left_open(site)
                what.append(f"{site.scopes} open scope(s){_LEFT.format(left) if left else ''}")
            if what or site.installed:
                places.append(f"{' and '.join(what) or 'a torch hook'} at {name or 'the model'!r}")
        ask = getattr(type(inner), "attached_hooks", None)
        places += [f"{what} at {name or 'the model'!r}" for what in (ask(inner) if ask else ())]
    if places:
        raise NotClean(places)
