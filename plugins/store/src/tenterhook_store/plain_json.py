"""JSON that is read from files that may be anybody's.

Python's reader takes NaN, numbers of any length and lists in lists without end; each of these
harms whoever goes on with what was read.
"""

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

DEEPEST = 100
"""How deep lists and objects of a file are nested at most."""

DIGITS = 300
"""How many digits a whole number of a file has at most; a float can hold it then."""


def plain_json(content: bytes, *, objects: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """Return what JSON in UTF-8 says.

    `objects` makes an object of its names and values. Raises `ValueError` for what is no JSON, NaN,
    an infinity, a number of very many digits; `RecursionError`, too, for lists in lists without
    end.
    """
    found = json.loads(
        content.decode(),
        parse_constant=_no_number,
        parse_float=_float,
        parse_int=_int,
        object_pairs_hook=objects,
    )
    _check_depth(content, found)
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _float(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text[:20]} is no number that a float can hold")
    return found


def _int(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _check_depth(content: bytes, value: Any) -> None:
    if content.count(b"[") + content.count(b"{") <= DEEPEST:  # in texts too, which does no harm
        return
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise RecursionError(f"it is nested more than {DEEPEST} deep")
