"""The hooks registered on a model, as a value: described, and registered again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch

from tenterhook.errors import closest
from tenterhook.hooks import Controller, Detector, Hook, HookType
from tenterhook.plugins import FIRST_PARTY, Registered, default_manager
from tenterhook.scopes import Selector, selector_of
from tenterhook_specs.errors import BadSpec, NotDescribable
from tenterhook_specs.formats import read_spec
from tenterhook_specs.import_paths import import_path, path_of
from tenterhook_specs.parameters import RESERVED, parameters_class, parameters_of
from tenterhook_specs.values import plain, revived, structure

if TYPE_CHECKING:
    from tenterhook.registry import HookRegistry


@attrs.frozen(kw_only=True)
class HookSpec:
    """One hook on one layer."""

    hook: str
    """The class: its name, as a plugin registers it, or its import path, `package.module:Class`."""
    layer: str | int
    """The layer, in any spelling."""
    type: Literal["forward", "pre_forward", "backward"] | None = None
    """When it runs; the hook's own way unless given."""
    id: str | None = None
    enabled: bool = True
    permanent: bool = False
    priority: int = 0
    mix: Literal["error", "in_order", "detect_first", "detect_last"] | None = None
    """How detectors and controllers share its layer; see `register_hook`."""
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    """What the class is made with, in plain form; what is left out has its default."""
    selection: Mapping[str, Any] | None = None
    """Which part it is for, by the words of a `Selection`: `tokens`, `phase`, ..."""


@attrs.frozen(kw_only=True)
class ModelSpec:
    """What stands on a model: its hooks, layer by layer, in the order they run."""

    on_error: Literal["raise", "warn", "disable"] = "raise"
    hooks: tuple[HookSpec, ...] = ()


Given = ModelSpec | HookSpec | Mapping[str, Any] | str | Path
"""A spec, plain values that say one, or the file that does."""


def describe(layers: "HookRegistry") -> ModelSpec:
    """Return the spec of the hooks registered on a model.

    Raises `NotDescribable` for a hook that no spec can say: of a class that cannot be imported,
    with a lambda, or that does not keep a parameter under its name.
    """
    hooks = []
    for layer, kinds in layers.by_layer().items():
        for hook, registration in (pair for pairs in kinds.values() for pair in pairs):
            found = describe_hook(hook)
            hooks.append(
                attrs.evolve(
                    found,
                    layer=layer,
                    permanent=registration.permanent,
                    priority=registration.priority,
                    mix=layers.mix_of(layer),
                    selection=_said(registration.selection, hook),
                )
            )
    return ModelSpec(on_error=layers.on_error, hooks=tuple(hooks))


def describe_hook(hook: Hook) -> HookSpec:
    """Return the spec of one hook: its class and the parameters that are not their defaults.

    A parameter is read from the attribute of its name. Raises `NotDescribable`.
    """
    name = _name_of(type(hook))
    parameters: dict[str, Any] = {}
    for each, parameter in parameters_of(type(hook)).items():
        if each in RESERVED:
            continue
        what = f"{each} of {type(hook).__name__} {hook.id!r}"
        if not hasattr(hook, each):
            raise NotDescribable(what, f"the hook does not keep it. Keep it as self.{each}.")
        value = getattr(hook, each)
        if not _same(value, parameter.default):
            parameters[each] = plain(value, what)
    layer = hook.layer_signature
    return HookSpec(
        hook=name,
        layer="" if layer is None else layer,
        type=hook.hook_type.value,
        id=hook.id,
        enabled=hook.enabled,
        parameters=parameters,
    )


def apply(layers: "HookRegistry", spec: Given, *, allow: Sequence[str] = ()) -> list[str]:
    """Register the hooks of a spec, all or none, and return their ids.

    `allow` are the modules and packages whose functions and classes the spec may name. What stands
    already stays. Raises `BadSpec`, `NotAllowed`, and what making and registering a hook raises,
    with a note that says which it was.
    """
    found = _model_spec(spec, allow)
    made = []
    for at, each in enumerate(found.hooks):
        try:
            selector = selector_for(each, f"hooks[{at}]")
            made.append((each, make_hook(each, path=f"hooks[{at}]", allow=allow), selector))
        except Exception as error:
            error.add_note(f"This was hooks[{at}] of the spec.")
            raise
    before, ids = layers.on_error, []
    try:
        for at, (each, hook, selector) in enumerate(made):
            try:
                ids.append(_register(layers, each, hook, selector))
            except Exception as error:
                error.add_note(f"This was hooks[{at}] of the spec.")
                raise
        layers.on_error = found.on_error
    except BaseException:
        for id in ids:
            layers.unregister_hook(id)
        layers.on_error = before
        raise
    return ids


def selector_for(spec: HookSpec, path: str) -> Selector | None:
    """Return the selector that a spec asks for, `None` for none. Raises `BadSpec`."""
    words: Any = dict(spec.selection or {})
    try:
        if "selection" in words:
            raise TypeError("There is no argument 'selection'.")
        return selector_of(words)
    except (TypeError, ValueError) as error:
        raise BadSpec([f"{path}.selection: {error}"]) from error


def _said(selector: Any, hook: Hook) -> dict[str, Any] | None:
    """Return the words of a selector that are not their defaults, in plain form."""
    if selector is None:
        return None
    what = f"the selection of {type(hook).__name__} {hook.id!r}"
    if not attrs.has(type(selector)):
        raise NotDescribable(what, f"a {type(selector).__name__} has no fields. Give a Selection.")
    words = {field.name: getattr(selector, field.name) for field in attrs.fields(type(selector))}
    defaults = {field.name: field.default for field in attrs.fields(type(selector))}
    return {
        name: plain(value, f"{name} in {what}")
        for name, value in words.items()
        if not _same(value, defaults[name])
    }


def make_hook(spec: HookSpec, *, path: str = "hook", allow: Sequence[str] = ()) -> Hook:
    """Make the hook of a spec, registered nowhere. Raises as `apply` does.

    Its selection, if it has one, is of the place where it is put.
    """
    hook_class = _class_of(spec.hook, path, allow)
    return hook_of(hook_class, spec, parameters_given(hook_class, spec, path=path, allow=allow))


def parameters_given(
    hook_class: type[Hook], spec: HookSpec, *, path: str, allow: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the parameters of a spec as the class takes them, defaults included.

    Raises `BadSpec` and `NotAllowed`.
    """
    kind = parameters_class(hook_class)
    values: Any = structure(dict(spec.parameters), kind, path=f"{path}.parameters", allow=allow)
    return {each.name: revived(getattr(values, each.name)) for each in attrs.fields(kind)}


def hook_of(hook_class: type[Hook], spec: HookSpec, parameters: Mapping[str, Any]) -> Hook:
    """Make a hook of these parameters, for the layer, type and id that its spec says."""
    takes = parameters_of(hook_class)
    given: dict[str, Any] = dict(parameters)
    for name, value in (
        ("layer_signature", spec.layer),
        ("hook_id", spec.id),
        ("hook_type", spec.type),
    ):
        if name in takes and value is not None:
            given[name] = value
    hook: Hook = hook_class(**given)
    if spec.id is not None:
        hook.id = spec.id
    if not spec.enabled:
        hook.disable()
    return hook


def _register(layers: "HookRegistry", spec: HookSpec, hook: Hook, selector: Selector | None) -> str:
    return layers.register_hook(
        spec.layer,
        hook,
        HookType(spec.type) if spec.type is not None else None,
        priority=spec.priority,
        permanent=spec.permanent,
        mix=spec.mix,
        selection=selector,
    )


def _model_spec(spec: Given, allow: Sequence[str]) -> ModelSpec:
    if isinstance(spec, ModelSpec):
        return spec
    if isinstance(spec, HookSpec):
        return ModelSpec(hooks=(spec,))
    if isinstance(spec, str | Path):
        return read_spec(spec, ModelSpec)
    if not isinstance(spec, Mapping):
        raise BadSpec([f"a spec is a ModelSpec, a table or a file, not a {type(spec).__name__}"])
    return structure(dict(spec), ModelSpec)


def _offered() -> dict[str, Registered]:
    manager = default_manager()
    return {**manager.extensions("detectors"), **manager.extensions("controllers")}


def _class_of(name: str, path: str, allow: Sequence[str]) -> type[Hook]:
    if ":" in name:
        found = import_path(name, allow)
    else:
        known = _offered()
        if clash := default_manager().clash("detectors", name):
            raise BadSpec([f"{path}.hook: {clash}"])
        if name not in known:
            raise BadSpec([f"{path}.hook: {_unknown(name, list(known))}"])
        found = known[name].load()
    if not (isinstance(found, type) and issubclass(found, Detector | Controller)):
        raise BadSpec([f"{path}.hook: {name!r} is no class of hooks"])
    return found


def _unknown(name: str, known: Sequence[str]) -> str:
    for kind in ("detectors", "controllers"):
        if distribution := FIRST_PARTY[kind].get(name):
            return f"{name!r} comes with `pip install {distribution}`"
    close = closest(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else "see `tenterhook plugins list`"
    return f"no installed plugin has a hook named {name!r}; {hint}"


def _name_of(hook_class: type[Hook]) -> str:
    registered = _offered().get(hook_class.__name__)
    if registered is not None:
        try:
            if registered.load() is hook_class:
                return registered.extension.name
        except ImportError:  # another plugin's, broken; the import path says which is meant
            pass
    return path_of(hook_class)


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    if isinstance(value, torch.Tensor) or isinstance(default, torch.Tensor):
        return False
    return type(value) is type(default) and bool(value == default)
