"""Folder names for layers and tensors: one each, on every file system.

A letter that is not safe is written as its bytes in hexadecimal, each after a mark. The folders of
layers have the mark `~`, which no URL escapes: readers that take a path for a URL, and decode it,
find the same folder. Tensors, and runs of earlier versions, have `%`.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from urllib.parse import unquote

from tenterhook_store import fold, is_reserved

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
MAX_LETTERS = 150

MARK = "%"
"""What is before the hexadecimal of a letter that is not plain."""

URL_SAFE = "~"
"""The same in the folders of layers."""


def folder_name(name: str, mark: str = MARK) -> str:
    """Return the name with everything that is not plain as a mark and hexadecimal.

    `model.layers.0` stays as it is. A long one is cut and ends in a hash of the whole.
    """
    escaped = "".join(
        letter if letter in _PLAIN else "".join(f"{mark}{byte:02X}" for byte in letter.encode())
        for letter in name
    )
    if not escaped or escaped[0] in "._" or is_reserved(escaped):
        escaped = f"{mark}{escaped}"
    if escaped.endswith("."):
        escaped += mark
    if len(escaped) > MAX_LETTERS:
        escaped = f"{escaped[:MAX_LETTERS]}{mark}{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return escaped


def name_of(folder: str) -> str | None:
    """Return the name that the folder of a tensor was made of; `None` where it has a hash of it."""
    if len(folder) > MAX_LETTERS:
        return None
    simple = folder.replace("%2F", "/")  # most have no other, and each folder of a store is asked
    if MARK not in simple:
        return simple
    plain = folder.removesuffix("%")
    if plain.startswith("%") and not re.match(r"%[0-9A-F]{2}", plain):
        plain = plain[1:]
    return unquote(plain, errors="replace")


def folder_names(names: Iterable[str], mark: str = MARK) -> dict[str, str]:
    """Return a folder name for each name, different ones even where case is ignored."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        folder, number = folder_name(name, mark), 1
        while fold(folder) in taken:
            number += 1
            folder = f"{folder_name(name, mark)}{mark}{number}"
        taken.add(fold(folder))
        found[name] = folder
    return found


def layer_folders(names: Iterable[str], standing: Callable[[], Collection[str]]) -> dict[str, str]:
    """Return the folder of each layer of a run, of which `standing` says what is there.

    It is asked only where a name is not plain: a run that an earlier version began has its own.
    """
    names = list(names)
    found, earlier = folder_names(names, URL_SAFE), folder_names(names)
    if found == earlier:
        return found
    there, now, before = set(standing()), set(found.values()), set(earlier.values())
    return earlier if there & (before - now) and not there & (now - before) else found
