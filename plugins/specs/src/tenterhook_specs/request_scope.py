"""`model.scoped(spec, hooks={...})`: the hooks of one request, in a spec that a stranger wrote.

What a stranger may ask for is little, and all of it is checked before anything is made:

1. The values are plain, finite, and no more than the elements allowed: nothing has looked at them.
2. They become a `ModelSpec`. What would outlive the scope, or change others' hooks, is refused.
3. For each hook its class is looked up among those that the service names, and its layer in the
   model. Its parameters get the types that the class declares; a function has none to be had.
4. The class says how many elements a hook of these parameters would hold (`elements`) and how wide
   its layer must be (`width`). Making a sparse autoencoder of two million latents takes minutes
   and 20 GB; multiplying two numbers takes none.
5. Only then are the hooks made, and a scope of `model.hooks` opened by whoever asked.
"""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from torch import Tensor

from tenterhook.errors import closest
from tenterhook.hooks import Controller, Detector, Hook, HookType
from tenterhook.one_line import error_line
from tenterhook.plugins import default_manager
from tenterhook.scopes import Selector
from tenterhook_specs.errors import BadSpec, NotAllowed
from tenterhook_specs.hooks import (
    HookSpec,
    ModelSpec,
    hook_of,
    parameters_given,
    selector_for,
)
from tenterhook_specs.layer_widths import Side, possible_widths
from tenterhook_specs.parameters import parameters_of
from tenterhook_specs.plain_values import leaves, path_text
from tenterhook_specs.values import brief, structure

if TYPE_CHECKING:
    from tenterhook import HookedModel
    from tenterhook.scopes.steering import Hooks

MAX_ELEMENTS = 2**24
"""Elements of tensors that the hooks of one scope may hold together, unless more are allowed."""

MOST_HOOKS = 1000
"""Hooks of one scope."""

LONGEST_TEXT = 1000
"""Characters of one text."""

MOST_WRONG = 20
"""Hooks whose mistakes are told; each unknown layer is compared with every layer there is."""

_FIELDS = 20 * MOST_HOOKS
"""Values of a spec beside the elements of its tensors."""


def scoped(
    model: "HookedModel",
    spec: ModelSpec | HookSpec | Mapping[str, Any],
    *,
    hooks: Collection[str] | Mapping[str, type[Hook]],
    max_elements: int = MAX_ELEMENTS,
    missing: Literal["warn", "raise", "ignore"] = "warn",
) -> "Hooks":
    """Return a scope of the hooks that a spec asks for; see `HookedModel.scoped`.

    Raises `BadSpec`, with every mistake and its path, for what a spec says; `TypeError` for
    `hooks` and `max_elements` that are no such things.
    """
    if type(max_elements) is not int or max_elements < 0:
        raise TypeError(f"max_elements={max_elements!r} is no whole number of elements.")
    classes = _classes(hooks)
    values = _values_of(spec)
    check_values(values, most=max_elements + _FIELDS)
    asked = structure(values, ModelSpec)
    mistakes = []
    if asked.on_error != "raise":
        mistakes.append("on_error: it is the model's, for all its hooks; leave it out")
    found: list[_Asked] = []
    widths: _Widths = {}
    wrong = 0
    for at, each in enumerate(asked.hooks):
        try:
            found.append(_looked_up(model, each, f"hooks[{at}]", classes, widths))
        except BadSpec as error:
            mistakes += error.mistakes
            wrong += 1
        if wrong == MOST_WRONG:
            raise BadSpec([*mistakes, "There may be more: the hooks after it were not looked at"])
    mistakes += _taken_ids(model, asked)
    if mistakes:
        raise BadSpec(mistakes)
    total = 0
    for one in found:
        total += one.elements
        if total > max_elements:
            raise BadSpec(
                [
                    f"{one.path}: with it the hooks would hold {_amount(total)} elements, and "
                    f"{max_elements:,} at most"
                ]
            )
    return model.hooks(
        *[(one.layer, _made(model, one), one.selector) for one in found], missing=missing
    )


_Widths = dict[tuple[str, Side], Collection[int] | None]
"""The widths of layers that were looked at; of a large model that takes milliseconds."""


@attrs.frozen(eq=False, kw_only=True)
class _Asked:
    """A hook that may be made."""

    path: str
    spec: HookSpec
    hook_class: type[Hook]
    layer: str
    parameters: dict[str, Any]
    selector: Selector | None
    elements: int


def _classes(hooks: Any) -> dict[str, type[Hook]]:
    """Return the allowed classes by name; raises for what the service itself got wrong."""
    if isinstance(hooks, str) or not isinstance(hooks, Collection):
        raise TypeError(
            f"hooks={brief(hooks)} is no collection of names. Name the classes that a spec may "
            "ask for, as hooks={'AddVector', 'Scale'}, or give a mapping of names to classes."
        )
    classes = dict(hooks) if isinstance(hooks, Mapping) else {name: _named(name) for name in hooks}
    for name, found in classes.items():
        if not (isinstance(found, type) and issubclass(found, Detector | Controller)):
            raise TypeError(f"hooks[{name!r}] is {brief(found)}, and no class of hooks.")
        if not callable(getattr(found, "elements", None)):
            raise TypeError(
                f"{name} does not declare `elements(parameters)`, which says how many elements "
                "of tensors a hook of these parameters would hold, so a spec of a stranger's may "
                "not ask for it. Declare it, as a classmethod, or leave it out of hooks."
            )
    return classes


def _named(name: str) -> Any:
    manager = default_manager()
    kinds = ("detectors", "controllers")
    kind = next((kind for kind in kinds if name in manager.extensions(kind)), "controllers")
    return manager.load(kind, name)


def _values_of(spec: Any) -> dict[str, Any]:
    if isinstance(spec, HookSpec):
        spec = ModelSpec(hooks=(spec,))
    if isinstance(spec, ModelSpec):
        given = attrs.asdict(spec, recurse=False)
        hooks = [
            attrs.asdict(each, recurse=False) if isinstance(each, HookSpec) else each
            for each in given["hooks"]
        ]
        return {**given, "hooks": hooks}
    if isinstance(spec, Mapping):
        return dict(spec)
    raise TypeError(
        f"A spec from a stranger is a ModelSpec, a HookSpec or plain values, not "
        f"{type(spec).__name__} {brief(spec)}. Read a file or text of yours first, by read_spec or "
        "loads of tenterhook.specs."
    )


def check_values(values: Mapping[str, Any], *, most: int) -> None:
    """Raise `BadSpec` for values that nothing a stranger wrote may hold, and for too many."""
    hooks = values.get("hooks", ())
    if isinstance(hooks, Collection) and len(hooks) > MOST_HOOKS:
        raise BadSpec([f"hooks: there are {len(hooks):,}, and {MOST_HOOKS:,} at most"])
    for path, value in leaves(values, most=most, where="the spec"):
        why = _why_not(value)
        if why:
            raise BadSpec([f"{path_text(path, 'the spec')}: {why}"])


def _why_not(value: Any) -> str:
    kind = type(value)
    if value is None or kind is bool:
        return ""
    if kind is int:
        return "" if -(2**63) <= value < 2**63 else "a whole number beyond 64 bits"
    if kind is float:
        return "" if math.isfinite(value) else f"{value} is not a finite number"
    if kind is str:
        long = len(value) > LONGEST_TEXT
        return f"a text of {len(value):,} characters, and {LONGEST_TEXT:,} at most" if long else ""
    # What text cannot say, and a ModelSpec that a program made may hold.
    if isinstance(value, Tensor | torch.dtype | slice):
        return ""
    return f"a {kind.__name__} is no plain value"


def _looked_up(
    model: "HookedModel",
    spec: HookSpec,
    path: str,
    classes: Mapping[str, type[Hook]],
    widths: _Widths,
) -> _Asked:
    """Return what would be made; raises `BadSpec` with all that is wrong about it."""
    mistakes = []
    if spec.permanent:
        mistakes.append(f"{path}.permanent: the hook ends with its scope; leave it out")
    if spec.priority:
        mistakes.append(f"{path}.priority: hooks run in the order of the list; leave it out")
    if spec.mix is not None:
        mistakes.append(f"{path}.mix: hooks run in the order of the list; leave it out")
    if spec.hook not in classes:
        close = closest(spec.hook, classes, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        allowed = ", ".join(sorted(classes)) or "none"
        mistakes.append(f"{path}.hook: {spec.hook!r} is not allowed here, but {allowed}{hint}")
    try:
        layer = model.layers.index.resolve(spec.layer)
    except ValueError as error:  # an UnknownLayer
        mistakes.append(f"{path}.layer: {error}")
    try:
        selector = selector_for(spec, path)
    except BadSpec as error:
        mistakes += error.mistakes
    if mistakes:
        raise BadSpec(mistakes)
    hook_class = classes[spec.hook]
    parameters = _checked_parameters(hook_class, spec, path)
    elements = _asked(hook_class, "elements", parameters, path)
    if elements is None or elements < 0:
        held = "no number of" if elements is None else _amount(elements)
        raise BadSpec([f"{path}.parameters: {spec.hook} of them would hold {held} elements"])
    kind = _type_of(hook_class, spec, parameters)
    width = _asked(hook_class, "width", parameters, path)
    side: Side = "input" if kind is HookType.PRE_FORWARD else "output"
    possible = None
    if width is not None:
        if (layer.name, side) not in widths:
            widths[layer.name, side] = possible_widths(layer.module, side)
        possible = widths[layer.name, side]
    if width is not None and possible is not None and width not in possible:
        has = f"has {next(iter(possible))}" if len(possible) == 1 else "has none of that many"
        raise BadSpec(
            [
                f"{path}.parameters: they are for {_amount(width)} features, and the {side} of "
                f"layer {layer.name!r} {has}"
            ]
        )
    return _Asked(
        path=path,
        spec=spec,
        hook_class=hook_class,
        layer=layer.name,
        parameters=parameters,
        selector=selector,
        elements=elements,
    )


def _checked_parameters(hook_class: type[Hook], spec: HookSpec, path: str) -> dict[str, Any]:
    try:
        parameters = parameters_given(hook_class, spec, path=path)
    except NotAllowed as error:
        why = f"{error.target!r} names code, which a spec from a stranger may not"
        raise BadSpec([f"{path}.parameters: {why}"]) from error
    for name, value in parameters.items():
        # 1e300 is a finite number and no float32.
        if isinstance(value, Tensor) and not _is_finite(value):
            raise BadSpec(
                [f"{path}.parameters.{name}: not all numbers are finite in {value.dtype}"]
            )
    return parameters


def _is_finite(tensor: Tensor) -> bool:
    try:
        return bool(tensor.isfinite().all())
    except (RuntimeError, NotImplementedError):  # dtypes that torch computes nothing in
        return False


def _asked(
    hook_class: type[Hook], what: str, parameters: Mapping[str, Any], path: str
) -> int | None:
    """Ask a class of hooks for a size; `None` where it says none."""
    ask = getattr(hook_class, what, None)
    if not callable(ask):
        return None
    try:
        answer = ask(dict(parameters))  # which hook is made is not its to say
    except Exception as error:  # parameters that make no sense to it
        raise BadSpec([f"{path}.parameters: {error_line(error)}"]) from error
    if answer is not None and type(answer) is not int:
        raise TypeError(f"{hook_class.__name__}.{what} returned {brief(answer)}, no whole number.")
    return answer


def _type_of(hook_class: type[Hook], spec: HookSpec, parameters: Mapping[str, Any]) -> HookType:
    if spec.type is not None:
        return HookType(spec.type)
    default = parameters_of(hook_class).get("hook_type")
    stated = None if default is None else default.default
    return HookType(stated) if isinstance(stated, str) else HookType.FORWARD


def _taken_ids(model: "HookedModel", asked: ModelSpec) -> list[str]:
    mistakes, seen = [], set[str]()
    for at, each in enumerate(asked.hooks):
        if each.id is not None and (each.id in seen or each.id in model.layers):
            mistakes.append(f"hooks[{at}].id: {each.id!r} is taken; give another, or none")
        seen |= {each.id} if each.id is not None else set()
    return mistakes


def _made(model: "HookedModel", one: _Asked) -> Hook:
    """Make the hook; what its class has against the parameters is a mistake of the spec."""
    try:
        hook = hook_of(one.hook_class, one.spec, one.parameters)
    except Exception as error:
        raise BadSpec([f"{one.path}.parameters: {error_line(error)}"]) from error
    if one.spec.type is not None:
        hook.hook_type = HookType(one.spec.type)
    try:
        model.layers.place(one.layer, hook.hook_type, several=False)
    except ValueError as error:  # the model's output, for a hook that runs before it
        raise BadSpec([f"{one.path}.layer: {error}"]) from error
    return hook


def _amount(count: int) -> str:
    """Write a number that may be too long to be written."""
    if abs(count) < 10**18:
        return f"{count:,}"
    return "more than 10**18" if count > 0 else "less than -10**18"
