"""Records that somebody else wrote, structured: each value of the type that its field has.

cattrs alone takes `"3"` and `3.9` for an int and a word for a list of letters. A file that was
edited, or is another's, is to be refused by the reader of the file and not by who uses the value.
"""

import functools
from typing import Any, TypeVar, get_args, get_origin

import cattrs

T = TypeVar("T")

WHOLE = 2**63
"""Numbers of rows, units and bytes are below it, as they are in every file format that we write."""

BAD = (cattrs.BaseValidationError, TypeError, ValueError, LookupError, AttributeError)
"""What structuring raises for what does not fit."""


def structured(kind: type[T], value: Any, *, forbid_extra: bool = True) -> T:
    """Return a plain JSON value as an instance of an attrs class; `ValueError` says what is wrong.

    With `forbid_extra`, a key that the class does not have is wrong too.
    """
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__} and should be an object")
    try:
        return strict_converter(forbid_extra).structure(value, kind)
    except cattrs.BaseValidationError as error:
        raise ValueError("; ".join(cattrs.transform_error(error))) from error
    except BAD as error:
        raise ValueError(str(error)) from error


@functools.cache
def strict_converter(forbid_extra: bool = True) -> cattrs.Converter:
    """Return a converter that changes the type of no value; tuples are JSON's lists."""
    converter = cattrs.Converter(
        forbid_extra_keys=forbid_extra, unstruct_collection_overrides={tuple: list}
    )
    converter.register_structure_hook(int, _whole)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(bool, _yes_or_no)
    converter.register_structure_hook_func(_is_tuple, _Tuples(converter))
    return converter


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


class _Tuples:
    """Structures `tuple[T, ...]` and `tuple[T, T]` of lists."""

    def __init__(self, converter: cattrs.Converter) -> None:
        self._converter = converter

    def __call__(self, value: Any, kind: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{type(value).__name__} and no list")
        kinds = get_args(kind)
        if kinds[-1:] == (...,):
            return tuple(self._converter.structure(each, kinds[0]) for each in value)
        if len(value) != len(kinds):
            raise ValueError(f"{len(value)} values and not {len(kinds)}")
        return tuple(map(self._converter.structure, value, kinds))


def _whole(value: Any, _: Any) -> int:
    if type(value) is not int or not 0 <= value < WHOLE:
        raise ValueError(f"{_short(value)} is no whole number from 0 to 2**63 - 1")
    return value


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{_short(value)} is no number")
    return float(value)


def _text(value: Any, _: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{_short(value)} is no text")
    return value


def _yes_or_no(value: Any, _: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{_short(value)} is neither true nor false")
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:30]}...{shown[-7:]}"
