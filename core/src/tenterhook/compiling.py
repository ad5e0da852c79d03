"""For plugins that put torch hooks on modules themselves: what `torch.compile` has to be told."""

import sys

from tenterhook._dispatch import compiler
from tenterhook._dispatch.frames import lock

__all__ = ["hooks_changed"]


def hooks_changed() -> bool:
    """Have code that `torch.compile` made look at hooks that come or go from now on.

    It skips that by default, so a hook that comes after the first compiled call would silently do
    nothing. Call it before a hook is put on a module; where nothing was compiled it does nothing.

    Returns whether this process compiles: a hook that looks at the thread or task which calls it
    is then to be wrapped in `torch.compiler.disable`.
    """
    if "torch._dynamo" not in sys.modules:
        return False
    with lock:
        compiler.hooks_change()
        return compiler.is_left_to_python()
