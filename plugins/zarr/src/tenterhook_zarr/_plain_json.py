"""JSON that is read from files that may be anybody's."""

import json
import math
import re
from typing import Any, NoReturn

from tenterhook_store import DamagedStore

DEEPEST = 100
"""How deep lists and objects of a file are nested at most."""

DIGITS = 300
"""How many digits a whole number of a file has at most; a float can hold it then."""

_HALF_A_LETTER = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")


def plain_json(content: bytes, path: str) -> Any:
    """Return what JSON says that may be anybody's; `DamagedStore` for what we would not write.

    That is NaN, an infinity, a number of very many digits, half a letter, lists in lists without
    end, a name twice in one object.
    """
    try:
        if _HALF_A_LETTER.search(content):
            raise ValueError("it has half a surrogate pair")
        found = json.loads(
            content.decode(),
            parse_constant=_no_number,
            parse_float=_float,
            parse_int=_int,
            object_pairs_hook=_once,
        )
        _check_depth(content, found)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DamagedStore(path, f"this is no record of ours ({reason})") from error
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is twice in one object")
    return found


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
    raise ValueError(f"it is nested more than {DEEPEST} deep")
