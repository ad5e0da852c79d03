"""For plugins that put torch hooks on modules themselves: what `torch.compile` has to be told."""

import torch
from torch import nn

from tenterhook._dispatch import compiler
from tenterhook._dispatch.frames import lock

__all__ = ["hooks_changed"]


def hooks_changed(*modules: nn.Module) -> bool:
    """Have code that `torch.compile` made look at hooks that come or go from now on.

    It skips that by default, so a hook that comes after the first compiled call would silently do
    nothing. Call it before a hook is put on a module, with the modules: code that was compiled
    before is not taken for those any more; without modules, all of it is dropped. Where nothing
    was compiled it does nothing.

    Returns whether this process compiles: a hook that looks at the thread or task which calls it
    is then to be wrapped in `torch.compiler.disable`.
    """
    with lock:
        if compiler.hooks_change() and not modules:
            torch._dynamo.reset()
        for module in modules if compiler.left_to_python else ():
            compiler.look_anew(module, hooked=True)
        return bool(compiler.left_to_python)
