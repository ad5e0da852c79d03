"""Which calls of modules run in this thread, read off Python's own stack.

torch tells hooks nothing of a forward that was stopped or interrupted, and of one that raised only
those that ask for it. On the stack a call is for exactly as long as it runs, whoever catches what.
"""

import inspect
import sys
from collections.abc import Collection, Iterator
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


def runs_itself(modules: Collection[nn.Module], limit: int = 200) -> nn.Module | None:
    """Return the one of `modules` whose `forward` runs here though nobody called the module."""
    # Classes of TorchScript have no `forward`.
    forwards = (getattr(type(module), "forward", None) for module in modules)
    codes = {getattr(inspect.unwrap(each), "__code__", None) for each in forwards if each}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and limit:
        module = frame.f_locals.get("self") if frame.f_code in codes else None
        if isinstance(module, nn.Module) and module in modules:
            return None if _is_called(frame.f_back, module) else module
        frame, limit = frame.f_back, limit - 1
    return None


def _is_called(frame: FrameType | None, module: nn.Module, limit: int = 12) -> bool:
    """Whether a call of `module` is one of the next frames up: decorators may be in between."""
    while frame is not None and limit:
        if frame.f_code.co_name == "_call_impl":
            return is_call_of(frame, module)
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
