"""Putting a folder in the place of another: as a whole, or not at all."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Any

_HERE = -100
"""What the system takes for the folder that paths are relative to."""
_EXCHANGE = 2


def _exchanging() -> Any:
    """Return the function of the system that exchanges two names in one step, if it has one."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "renameat2", None)


_RENAME = _exchanging()


def replace_folder(new: Path, place: Path, aside: Path) -> None:
    """Give a folder its place; what is there goes to `new`, or to `aside` where nothing does both.

    Whoever looks sees the old folder or the new one. Where the system cannot exchange two names in
    one step, nothing is there for a moment, and `restore` puts the old one back.
    """
    if not place.exists():
        new.rename(place)
    elif not _exchanged(new, place):
        place.rename(aside)
        try:
            new.rename(place)
        except BaseException:
            restore(place, aside)
            raise


def restore(place: Path, aside: Path) -> None:
    """Put back what was set aside for a folder that never came."""
    if aside.is_dir() and not place.exists():
        with contextlib.suppress(OSError):
            aside.rename(place)


def _exchanged(one: Path, other: Path) -> bool:
    if _RENAME is None:
        return False
    return not _RENAME(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
