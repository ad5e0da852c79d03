"""What `torch.compile` is to leave to Python of ours: what runs depends on the thread that calls.

Traced, it would be settled for every thread by the one that called first. A process that compiles
nothing has none of this.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_WHY = "What runs at points inside attention and experts depends on the thread that calls."


def left_to_python(hook: Callable[..., Any], compiles: bool) -> Callable[..., Any]:
    """Return a method of ours so that the compiler, where there is one, breaks the graph at it."""
    if not compiles:
        return hook
    compiler: Any = torch.compiler  # this function of it has no types
    wrapped: Any = compiler.disable(hook, reason=_WHY)
    wrapped.__self__ = getattr(hook, "__self__", None)  # by which the attention is found
    return wrapped  # type: ignore[no-any-return]


class PythonForward:
    """Has the forward of a module run as Python while a torch function mode of ours looks on."""

    def __init__(self, module: nn.Module) -> None:
        self._own = vars(module)
        self._before = self._own.get("forward")
        self._own["forward"] = left_to_python(module.forward, compiles=True)

    def remove(self) -> None:
        """Give the module its own forward again."""
        if self._before is None:
            self._own.pop("forward", None)
        else:
            self._own["forward"] = self._before
