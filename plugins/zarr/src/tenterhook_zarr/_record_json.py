"""Records as JSON, refused where they say what we would not write."""

import re
from typing import Any

from tenterhook_store import DamagedStore
from tenterhook_store.plain_json import plain_json

_HALF_A_LETTER = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")


def record_json(content: bytes, path: str) -> Any:
    """Return what JSON says that may be anybody's; `DamagedStore` for what we would not write.

    That is half a letter, a name twice in one object, and what `plain_json` does not read.
    """
    try:
        if _HALF_A_LETTER.search(content):
            raise ValueError("it has half a surrogate pair")
        return plain_json(content, objects=_once)
    except (ValueError, RecursionError) as error:
        is_deep = isinstance(error, RecursionError) and "nested" not in str(error)
        reason = "it is nested too deeply" if is_deep else str(error)
        raise DamagedStore(path, f"this is no record of ours ({reason})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is twice in one object")
    return found
