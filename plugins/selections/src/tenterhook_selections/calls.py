"""Which calls of modules run in this thread, read off Python's own stack.

torch tells hooks nothing of a forward that was stopped or interrupted, and of one that raised only
those that ask for it. On the stack a call is for exactly as long as it runs, whoever catches what.
"""

import inspect
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import nn

_NOTES = "__tenterhook_notes__"


def calls_here(limit: int | None = None) -> Iterator[FrameType]:
    """Give the stack's frame of each call of a module that runs in this thread, innermost first.

    `limit` is how many frames are looked at.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and limit != 0:
        if frame.f_code.co_name == "_call_impl":
            yield frame
        frame = frame.f_back
        if limit is not None:
            limit -= 1


def is_call_of(frame: FrameType, module: nn.Module) -> bool:
    """Whether a frame of `calls_here` is a call of `module`."""
    return frame.f_locals.get("self") is module


def runs_itself(module: nn.Module, limit: int = 200) -> bool:
    """Whether the `forward` of `module` runs here though nobody called the module."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    frame: FrameType | None = sys._getframe(1)
    called = False
    while frame is not None and limit and code is not None:
        if frame.f_code is code and frame.f_locals.get("self") is module:
            outer = frame.f_back
            while outer is not None and outer.f_code.co_name in ("inner", "_call_impl") and limit:
                called = called or is_call_of(outer, module)
                outer, limit = outer.f_back, limit - 1
            return not called
        frame, limit = frame.f_back, limit - 1
    return False


def note(frame: FrameType, owner: object, what: Any) -> None:
    """Keep something with a frame of `calls_here`, as one more of its local variables.

    So it goes when the call does, however that ends.
    """
    frame.f_locals.setdefault(_NOTES, {})[owner] = what


def noted(frame: FrameType, owner: object) -> Any:
    """Return what `owner` keeps with a frame of `calls_here`, `None` where that is nothing."""
    notes = frame.f_locals.get(_NOTES)
    return None if notes is None else notes.get(owner)
