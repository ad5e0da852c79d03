"""Folder names for layers and tensors: one each, on every file system."""

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import unquote

from tenterhook_store import fold, is_reserved

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
MAX_LETTERS = 150


def folder_name(name: str) -> str:
    """Return the name with everything that is not plain as `%` and hexadecimal.

    `model.layers.0` stays as it is. A long one is cut and ends in a hash of the whole.
    """
    escaped = "".join(
        letter if letter in _PLAIN else "".join(f"%{byte:02X}" for byte in letter.encode())
        for letter in name
    )
    if not escaped or escaped[0] in "._" or is_reserved(escaped):
        escaped = f"%{escaped}"
    if escaped.endswith("."):
        escaped += "%"
    if len(escaped) > MAX_LETTERS:
        escaped = f"{escaped[:MAX_LETTERS]}%{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return escaped


def name_of(folder: str) -> str | None:
    """Return the name that a folder's name was made of; `None` where it has a hash of it."""
    if len(folder) > MAX_LETTERS:
        return None
    plain = folder.removesuffix("%")
    if plain.startswith("%") and not re.match(r"%[0-9A-F]{2}", plain):
        plain = plain[1:]
    return unquote(plain, errors="replace")


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """Return a folder name for each name, different ones even where case is ignored."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        folder, number = folder_name(name), 1
        while fold(folder) in taken:
            number += 1
            folder = f"{folder_name(name)}%{number}"
        taken.add(fold(folder))
        found[name] = folder
    return found
