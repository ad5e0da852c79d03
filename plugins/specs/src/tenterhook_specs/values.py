"""Values and the plain forms they have in TOML, YAML and JSON.

A tensor is `{dtype, shape, values}`, its values flat, or where a tensor is wanted a list of
numbers, float32; a dtype is its name; a slice is text, `"2:5"`; a function or class is its import
path. What is `None` is left out of tables, for TOML has no word for it.
"""

import enum
import functools
import re
import reprlib
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from collections.abc import Sequence as SequenceType
from pathlib import PurePath
from types import NoneType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import torch
from cattrs import BaseValidationError, Converter, transform_error
from cattrs.errors import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn
from torch import Tensor

from tenterhook.errors import TenterhookError, closest
from tenterhook.one_line import printable
from tenterhook_specs.errors import BadSpec, NotDescribable
from tenterhook_specs.import_paths import import_path, path_of

T = TypeVar("T")
_MOST_KEYS = 20
"""Unknown keys of a table that are told; each is compared with all that there might be."""
_TENSOR_KEYS = {"dtype", "shape", "values"}


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 4, 4


def brief(value: Any) -> str:
    """Return what a value looks like, short, however large it is; for errors."""
    return _REPR.repr(value)


def plain(value: Any, what: str = "the value") -> Any:
    """Return a value in its plain form; `NotDescribable` where it has none."""
    if isinstance(value, enum.Enum):
        return plain(value.value, what)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return _plain_tensor(value, what)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, slice):
        ends = [value.start, value.stop, *([] if value.step is None else [value.step])]
        return ":".join("" if end is None else str(end) for end in ends)
    if isinstance(value, torch.device | PurePath):
        return str(value)
    if attrs.has(type(value)):
        fields = {each.name: each for each in attrs.fields(type(value))}
        given = attrs.asdict(value, recurse=False)
        own = {name: item for name, item in given.items() if not _is_default(item, fields[name])}
        return plain(own, what)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise NotDescribable(what, "it has keys that are no text.")
        found = {key: plain(item, f"{what}.{key}") for key, item in value.items()}
        return {key: item for key, item in found.items() if item is not None}
    if isinstance(value, set | frozenset):
        return sorted(plain(item, what) for item in value)
    if isinstance(value, tuple | list | range):
        return [plain(item, f"{what}[{at}]") for at, item in enumerate(value)]
    if callable(value):
        return path_of(value)
    raise NotDescribable(what, f"a {type(value).__name__} has no plain form.")


def _is_default(value: Any, field: "attrs.Attribute[Any]") -> bool:
    """Say whether a field need not be written. Values that are compared are plain ones."""
    default = field.default
    return type(value) is type(default) and isinstance(value, bool | int | str) and value == default


def _plain_tensor(tensor: Tensor, what: str) -> dict[str, Any]:
    if tensor.is_complex() or tensor.is_quantized or tensor.layout is not torch.strided:
        raise NotDescribable(what, f"a tensor of {tensor.dtype}, {tensor.layout} has no numbers.")
    flat = tensor.detach().cpu().reshape(-1)
    if flat.is_floating_point() and flat.dtype != torch.float64:
        flat = flat.to(torch.float32)  # exact, and what `tolist` can read
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "values": flat.tolist(),
    }


def structure(value: Any, kind: type[T], *, path: str = "", allow: Sequence[str] = ()) -> T:
    """Return plain values as a frozen class, unknown keys forbidden and types as annotated.

    Raises `BadSpec`, each mistake with the path to it, and the nearest name for an unknown key;
    `NotAllowed` for code that `allow` does not cover.
    """
    try:
        return _converter(tuple(allow)).structure(value, kind)
    except TenterhookError:
        raise
    except Exception as error:
        _raise_not_allowed(error)
        if not isinstance(error, BaseValidationError | ValueError | TypeError):
            raise
        raise BadSpec(_mistakes(error, path)) from error


def _raise_not_allowed(error: BaseException) -> None:
    """Raise what is an error of its own out of cattrs' group of mistakes."""
    if isinstance(error, TenterhookError) and not isinstance(error, BadSpec):
        raise error
    for inner in getattr(error, "exceptions", ()):
        _raise_not_allowed(inner)


def _mistakes(error: BaseException, path: str) -> list[str]:
    messages = transform_error(error, path=path or "$", format_exception=_mistake)
    found = []
    for each in messages:
        what, _, where = each.rpartition(" @ ")
        where = re.sub(r"\['([^']*)'\]", r".\1", where.removeprefix("$")).removeprefix(".")
        found.append(f"{where}: {what}" if where else what)
    return found


def _mistake(error: BaseException, _: type | None) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        known = [each.name for each in attrs.fields(error.cl)]
        messages = []
        for key in sorted(error.extra_fields)[:_MOST_KEYS]:
            close = closest(key[:100], known, 1)
            hint = f"did you mean {close[0]!r}?" if close else "there are none"
            messages.append(f"unknown key {brief(key)}; {hint}")
        more = len(error.extra_fields) - _MOST_KEYS
        if more > 0:
            messages.append(f"and {more:,} more")
        return ", ".join(messages)
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return printable(str(error)).rstrip(".") or type(error).__name__


@functools.lru_cache(maxsize=16)
def _converter(allow: tuple[str, ...]) -> Converter:
    """Return what turns plain values into classes; made once, for cattrs compiles as it goes."""
    made = Converter(forbid_extra_keys=True, detailed_validation=True)

    def code(value: Any, _: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected an import path, 'package.module:name', not {brief(value)}")
        return import_path(value, allow)

    def union(kind: Any) -> Callable[[Any, Any], Any]:
        members = get_args(kind)
        return lambda value, _: _first_that_fits(made, value, members)

    def table(kind: Any) -> Callable[[Any, Any], Any]:
        structured = make_dict_structure_fn(
            kind, made, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True
        )

        def checked(value: Any, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"expected a table, not {type(value).__name__} {brief(value)}")
            _check_containers(value, kind)
            return structured(value, kind)

        return checked

    for kind in (bool, int, float, str):
        made.register_structure_hook(kind, _exactly)
    made.register_structure_hook(Tensor, lambda value, _: _tensor(value))
    made.register_structure_hook(torch.dtype, lambda value, _: _dtype(value))
    made.register_structure_hook(slice, lambda value, _: _slice(value))
    made.register_structure_hook(bytes, _no_plain_form)  # bytes(10**9) is a gigabyte
    made.register_structure_hook(bytearray, _no_plain_form)
    made.register_structure_hook_factory(attrs.has, table)
    made.register_structure_hook_factory(_is_union, union)
    made.register_structure_hook_func(_is_code, code)
    made.register_structure_hook_func(_is_literal, _one_of)
    made.register_structure_hook_func(
        _is_iterable, lambda value, kind: _items(made, value, get_args(kind))
    )
    return made


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_code(kind: Any) -> bool:
    return get_origin(kind) in (Callable, type)


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _is_iterable(kind: Any) -> bool:
    return get_origin(kind) in (Iterable, Sequence, Collection, SequenceType, Set)


def _check_containers(values: Mapping[str, Any], kind: type) -> None:
    """Raise for a text or table where a list belongs, or a list where a table does.

    cattrs takes whatever can be iterated: `hooks = {}` would be a spec without hooks.
    """
    for each in attrs.fields(kind):
        value = values.get(each.name)
        members = [m for m in get_args(each.type) if m is not NoneType]
        is_optional = NoneType in get_args(each.type) and len(members) == 1
        kind_of = members[0] if is_optional else each.type
        wanted = get_origin(kind_of) or kind_of
        if each.name not in values or not isinstance(wanted, type):
            continue
        if is_optional and value is None:
            continue
        if issubclass(wanted, Mapping):
            fits, what = isinstance(value, Mapping), "table"
        elif issubclass(wanted, list | tuple | set | frozenset):
            fits, what = isinstance(value, list | tuple), "list"
        else:
            continue
        if not fits:
            error = ValueError(f"expected a {what}, not {type(value).__name__} {brief(value)}")
            error.add_note(AttributeValidationNote("", each.name, each.type))
            raise ClassValidationError(f"While structuring {kind.__name__}", [error], kind)


def _no_plain_form(_: Any, kind: type) -> Any:
    raise ValueError(f"it is {kind.__name__}, which no spec can say; leave it out")


def _exactly(value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, not {type(value).__name__} {brief(value)}")
    return value


def _first_that_fits(converter: Converter, value: Any, members: tuple[Any, ...]) -> Any:
    if value is None and type(None) in members:
        return None
    mistakes = []
    for member in sorted(members, key=_is_code):  # text that is a name is no code
        if member is type(None):
            continue
        try:
            return converter.structure(value, member)
        except TenterhookError:
            raise
        except Exception as error:  # noqa: BLE001 - the next may fit
            mistakes += _mistakes(error, "")
    raise ValueError("; or ".join(dict.fromkeys(mistakes)))


def _one_of(value: Any, kind: Any) -> Any:
    valid = get_args(kind)
    if value not in valid:
        close = closest(str(value)[:100], [str(each) for each in valid], 1)[0]
        names = ", ".join(map(repr, valid))
        raise ValueError(f"{brief(value)} is not one of {names}; did you mean {close!r}?")
    return value


def _items(converter: Converter, value: Any, kinds: tuple[Any, ...]) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list, not {type(value).__name__} {brief(value)}")
    kind = kinds[0] if kinds else Any
    return [converter.structure(item, kind) for item in value]


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        unknown, missing = set(value) - _TENSOR_KEYS, _TENSOR_KEYS - set(value)
        if unknown or missing:
            raise ValueError(
                f"a tensor has the keys {sorted(_TENSOR_KEYS)}, not {brief(sorted(value))}"
            )
        dtype = _dtype(value["dtype"])
        numbers = torch.float64 if dtype.is_floating_point else dtype
        return torch.tensor(value["values"], dtype=numbers).to(dtype).reshape(value["shape"])
    if isinstance(value, list):
        return torch.tensor(value, dtype=torch.float32)
    raise ValueError(
        f"expected a tensor or a list of numbers, not {type(value).__name__} {brief(value)}"
    )


def _dtype(value: Any) -> torch.dtype:
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype):
        names = sorted(
            name for name in vars(torch) if isinstance(getattr(torch, name), torch.dtype)
        )
        raise ValueError(
            f"{brief(value)} is no dtype; did you mean {closest(str(value)[:100], names, 1)[0]!r}?"
        )
    return found


def _slice(value: Any) -> slice:
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) not in (2, 3):
        raise ValueError(f"expected a slice, as '2:5', not {brief(value)}")
    return slice(*(int(part) if part.strip() else None for part in parts))


def revived(value: Any) -> Any:
    """Return a tensor for its plain form; anything else, of which nothing is known, as it is."""
    if isinstance(value, Mapping) and set(value) == _TENSOR_KEYS:
        return _tensor(value)
    return value
