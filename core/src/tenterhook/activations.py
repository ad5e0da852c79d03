"""Where the activation sits in what a module takes and returns, and how to put another there.

Nothing here writes to a tensor or to a structure that somebody else holds: `replace` and
`replace_input` return new structures of the same type, with every other field as it was.
"""

import copy
import dataclasses
import inspect
from collections.abc import Iterable, Mapping, MutableMapping, Sequence, ValuesView
from typing import Any

from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling as tracing

_NAMES = ("last_hidden_state", "logits")


class Inputs(tuple[Any, ...]):
    """The inputs of one call, in the order of the parameters of the module's `forward`.

    A tuple of every input, whether it was passed by position or by keyword.
    """

    args: tuple[Any, ...]
    """The positional inputs."""

    kwargs: dict[str, Any]
    """The keyword inputs."""

    names: tuple[str, ...]
    """The keys of `kwargs` in the order in which their values follow `args` in the tuple."""


def inputs_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Return the inputs of a call of `module` as one tuple; see `Inputs`."""
    order = parameters_of(_class_of(module))
    names = tuple(sorted(kwargs, key=lambda name: order.get(name, len(order))))
    inputs = Inputs((*args, *(kwargs[name] for name in names)))
    inputs.args, inputs.kwargs, inputs.names = args, {**kwargs}, names  # torch hands on its own
    return inputs


def named_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """Return the inputs of a call by the names of the parameters of the module's `forward`.

    `inputs` is what a hook was given: a plain tuple of positional inputs, or `Inputs`. The entries
    of a mapping that was passed whole, as tokenizers return it, are inputs of their own.
    """
    args = inputs.args if isinstance(inputs, Inputs) else inputs
    given = inputs.kwargs if isinstance(inputs, Inputs) else {}
    named = dict(zip(parameters_of(_class_of(module)), args, strict=False))
    for value in (*args, *given.values()):
        if isinstance(value, Mapping):
            named.update(value)
    for name, value in given.items():
        if name not in named or not isinstance(value, Mapping):
            named[name] = value
    return named


def _class_of(module: nn.Module) -> Any:
    return type(module)  # hashable, whatever a type checker makes of it


def parameters_of(cls: type[nn.Module]) -> dict[str, int]:
    """Return the place of each parameter of a module class's `forward`, `self` left out."""
    # Code that was compiled with a look at them all would be compiled anew when one more comes.
    known = {} if tracing() else _PARAMETERS
    found = known.get(cls)
    if found is None:
        try:
            names = list(inspect.signature(cls.forward).parameters)[1:]
        except (TypeError, ValueError):  # a forward with no Python signature
            names = []
        found = known[cls] = {name: at for at, name in enumerate(names)}
    return found


_PARAMETERS: dict[type[nn.Module], dict[str, int]] = {}


def activation_of(output: Any) -> Tensor | None:
    """Return the activation of what a module returned, `None` where it holds no tensor.

    A tensor itself; the first tensor of a tuple or list; of a mapping, dataclass or other output
    object `last_hidden_state`, else `logits`, else the first tensor among its fields.
    """
    if isinstance(output, Tensor):
        return output
    place = _place(output)
    return None if place is None else place[1]


def replace(output: Any, tensor: Tensor) -> Any:
    """Return `output` with `tensor` in the activation's place.

    The result has the type of `output`; its other fields are the same objects. Raises `TypeError`
    where `output` holds no tensor.
    """
    if isinstance(output, Tensor):
        return tensor
    place = _place(output)
    if place is None:
        raise TypeError(f"{type(output).__name__} holds no tensor that could be replaced.")
    return with_item(output, place[0], tensor)


def first_input(inputs: tuple[Any, ...]) -> Tensor | None:
    """Return the first tensor of the inputs, looking inside tuples, lists and mappings."""
    for item in inputs:
        if isinstance(item, Tensor | tuple | list | Mapping):
            found = activation_of(item)
            if found is not None:
                return found
    return None


def tensors_in(*values: Any) -> list[Tensor]:
    """Return the tensors among the values, and in those that are tuples, lists and mappings."""
    return [item for item in items_in(*values) if isinstance(item, Tensor)]


def items_in(*values: Any) -> list[Any]:
    """Return what tuples, lists and mappings among the values hold, and the others themselves."""
    parts = (value.values() if isinstance(value, Mapping) else value for value in values)
    lists = (part if isinstance(part, tuple | list | ValuesView) else (part,) for part in parts)
    return [item for items in lists for item in items]


def whole(value: Any) -> Any:
    """Return a tensor of which several processes have a part each, a `DTensor`, whole and plain.

    An output has it in its place. All processes gather it, so all must ask. Any other value comes
    back as it is.
    """
    gather: Any = getattr(activation_of(value), "full_tensor", None)
    return value if gather is None else replace(value, gather())


def spread_as(new: Any, old: Any) -> Any:
    """Return a whole tensor as one that processes have parts of, if it takes the place of one."""
    if not (isinstance(new, Tensor) and hasattr(old, "full_tensor")):
        return new
    from torch.distributed.tensor import Replicate, distribute_tensor

    placed = [Replicate() if each.is_partial() else each for each in old.placements]
    return distribute_tensor(new, old.device_mesh, placed)


def shape_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return the shape of a tensor; of a nested one, whose rows differ, the shape of each row."""
    return tuple(map(shape_of, tensor.unbind())) if tensor.is_nested else tuple(tensor.shape)


def replace_input(
    inputs: Inputs, new: Tensor | tuple[Any, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword inputs with `new` in their place.

    A tensor takes the place of the first tensor, wherever it was passed. A tuple takes the place of
    the positional inputs, as a torch pre-hook's does; what it holds beyond them, of the keyword
    inputs in the order of `inputs`.
    """
    if isinstance(new, Tensor):
        for at, item in enumerate(inputs):
            known = isinstance(item, Tensor | tuple | list | Mapping)
            if known and activation_of(item) is not None:
                return _put(inputs, at, replace(item, new))
        raise TypeError("The inputs hold no tensor that could be replaced.")
    count = len(inputs.args)
    if count < len(new) <= len(inputs):
        by_name = dict(zip(inputs.names, new[count:], strict=False))
        return tuple(new[:count]), {**inputs.kwargs, **by_name}
    return tuple(new), inputs.kwargs


Path = tuple[str | int, ...]
"""The way to a part of an output: a field, an item, an item of a field; `()` is all of it."""


def path_to(field: Any, item: Any) -> Path:
    """Return the way to a field, an item, or an item of a field; `TypeError` for what is none."""
    if field is item is None:
        return ()
    if not isinstance(field, str | None) or type(item) not in (int, type(None)):  # no bool
        raise TypeError(f"field={field!r}, item={item!r}: a field is a str, an item an int.")
    return tuple(step for step in (field, item) if step is not None)


def part_of(output: Any, path: Path) -> Any:
    """Return the part of an output at the end of a path; `LookupError` where there is none."""
    for step in path:
        output = _step(output, step)[1]
    return output


def with_part(output: Any, path: Path, new: Any) -> Any:
    """Return `output` with `new` at the end of a path; see `replace`."""
    if not path:
        return new
    place, held = _step(output, path[0])
    return with_item(output, place, with_part(held, path[1:], new))


def _step(output: Any, step: str | int) -> tuple[Any, Any]:
    """Return the index, key or field name that a step means, and what is there."""
    fields: Any = output if isinstance(output, tuple | list) else _fields(output)
    places = {at: at for at in fields} if isinstance(fields, Mapping) else _places(fields)
    if step not in places:
        there = ", ".join(map(repr, places)) or "nothing"
        raise LookupError(f"{type(output).__name__} has no {step!r}, only {there}.")
    return places[step], fields[places[step]]


def _places(items: Sequence[Any]) -> dict[Any, int]:
    """Return the index of each item by every name of it; torch's named tuples have names too."""
    names = getattr(type(items), "__match_args__", ())
    by_name = {name: at for at, name in enumerate(names)}
    return {at: at % len(items) for at in range(-len(items), len(items))} | by_name


def _put(inputs: Inputs, at: int, item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    count = len(inputs.args)
    if at < count:
        return (*inputs.args[:at], item, *inputs.args[at + 1 :]), inputs.kwargs
    return inputs.args, {**inputs.kwargs, inputs.names[at - count]: item}


def _place(output: Any) -> tuple[Any, Tensor] | None:
    """Return where the activation is (an index, key or field name) and the activation."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(output, tuple | list):
        items = enumerate(output)
    else:
        fields = _fields(output)
        items = [(name, fields[name]) for name in _NAMES if name in fields] + list(fields.items())
    for at, item in items:
        if isinstance(item, Tensor):
            return at, item
    return None


def _fields(output: Any) -> Mapping[Any, Any]:
    """Return what a mapping, dataclass, attrs class or other output object holds, by name."""
    if isinstance(output, Mapping):
        return output
    names = list(_NAMES)
    if dataclasses.is_dataclass(output):
        names += [field.name for field in dataclasses.fields(output)]
    names += [field.name for field in getattr(type(output), "__attrs_attrs__", ())]
    return {name: getattr(output, name) for name in names if hasattr(output, name)}


def with_item(output: Any, place: Any, tensor: Tensor) -> Any:
    """Return `output` with `tensor` at an index, key or field; see `replace`."""
    if isinstance(output, tuple):
        return _tuple_like(output, (*output[:place], tensor, *output[place + 1 :]))
    if isinstance(output, Mapping) and not isinstance(output, MutableMapping):
        raise TypeError(f"{type(output).__name__} is a mapping that cannot be changed.")
    if type(output) is dict:  # a copy of one, or of a list, does not trace
        return {**output, place: tensor}
    if type(output) is list:
        return [*output[:place], tensor, *output[place + 1 :]]
    changed = copy.copy(output)
    if isinstance(changed, MutableMapping) and not isinstance(changed, dict):
        old = output[place]
        changed[place] = tensor
        if output[place] is not old:  # its copies share what they hold
            output[place] = old
            raise TypeError(f"{type(output).__name__} cannot be copied: give it a __copy__.")
    elif isinstance(changed, list | MutableMapping):
        changed[place] = tensor
    else:
        object.__setattr__(changed, place, tensor)  # frozen dataclasses too
    return changed


def _tuple_like(output: tuple[Any, ...], items: tuple[Any, ...]) -> tuple[Any, ...]:
    kind = type(output)
    if kind is tuple:
        return items
    if hasattr(kind, "_make"):  # a named tuple
        made: tuple[Any, ...] = kind._make(items)
        return made
    made = kind(items)  # torch.return_types and other subclasses take an iterable
    if hasattr(output, "__dict__"):
        vars(made).update(vars(output))
    return made
