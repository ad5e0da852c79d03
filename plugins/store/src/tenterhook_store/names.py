"""Which names a store takes: those that are one file name on every system and stay inside it.

A store copied to another file system must mean the same there, so the rules are those of the
strictest: Windows reserves names, macOS takes composed and decomposed letters for one, and both
ignore case.
"""

import json
import re
import unicodedata
from collections.abc import Collection
from typing import Any

from tenterhook_store.errors import BadName, CannotKeep, NameTaken

MAX_BYTES = 200
"""The longest name, in bytes of UTF-8: fits a file name with room for an ending."""

_FORBIDDEN = '<>:"|?*'
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])( *)(\..*)?", re.IGNORECASE)


def check_tensor_name(name: Any) -> str:
    """Return the name, slash-separated parts that each are safe, or raise `BadName`."""
    _check_text("tensor", name)
    for part in name.split("/"):
        _check_part("tensor", name, part)
    return str(name)


def check_run_id(run_id: Any) -> str:
    """Return the id, one safe part, or raise `BadName`."""
    _check_text("run", run_id)
    if "/" in run_id:
        raise BadName("run", run_id, "it has a slash")
    _check_part("run", run_id, run_id)
    return str(run_id)


def check_attribute(name: Any, value: Any) -> str:
    """Return the name, one safe part, or raise `BadName`; `CannotKeep` for what is not plain JSON.

    Plain JSON is what comes back from it as it was: no tuples, no NaN, no keys but strings.
    """
    _check_text("attribute", name)
    if "/" in name:
        raise BadName("attribute", name, "it has a slash")
    _check_part("attribute", name, name)
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        is_plain = json.loads(text) == value
    except (TypeError, ValueError):
        is_plain = False
    if not is_plain:
        raise CannotKeep(
            f"{type(value).__name__} objects like this one as attributes, only plain JSON values",
            "Make it numbers, strings, booleans, lists and dicts with string keys.",
        )
    return str(name)


def check_free(kind: str, name: str, standing: Collection[str]) -> None:
    """Raise `NameTaken` if another of the names would be the same file somewhere."""
    folded = fold(name)
    for other in standing:
        if other != name and fold(other) == folded:
            raise NameTaken(kind, name, other)


def fold(name: str) -> str:
    """Return what file systems that ignore case and composition make of the name."""
    if name.isascii():  # the same, ten times as fast: a store may have very many
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_reserved(part: str) -> bool:
    """Say whether Windows reserves the file name for a device."""
    return bool(_RESERVED.fullmatch(part))


def _check_text(kind: str, name: Any) -> None:
    if not isinstance(name, str):
        raise BadName(kind, name, f"it is a {type(name).__name__} and no string")
    if not name:
        raise BadName(kind, name, "it is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadName(kind, name, "it is no valid Unicode") from None
    if size > MAX_BYTES:
        raise BadName(kind, name, f"it has {size} bytes, and {MAX_BYTES} are the most")
    for letter in name:
        if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp"):
            raise BadName(kind, name, f"it has the control character {letter!r}")
    if "\\" in name:
        raise BadName(kind, name, "it has a backslash")
    for letter in _FORBIDDEN:
        if letter in name:
            raise BadName(kind, name, f"it has {letter!r}, which not every file system takes")


def _check_part(kind: str, name: str, part: str) -> None:
    if not part:
        raise BadName(kind, name, "it begins or ends with a slash, or has two together")
    if part in (".", ".."):
        raise BadName(kind, name, f"{part!r} would lead out of the store")
    if part != part.strip() or part.endswith("."):
        raise BadName(kind, name, f"{part!r} begins or ends with a space, or ends with a dot")
    if part.startswith((".", "__")):
        raise BadName(
            kind, name, f"{part!r} begins with {part[0]!r}, which is reserved for the store"
        )
    if is_reserved(part):
        raise BadName(kind, name, f"Windows reserves {part!r}")
