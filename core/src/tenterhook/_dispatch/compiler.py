"""What `torch.compile` has to know of hooks: which of our code it must leave to Python, and when.

Two faults are kept away. The compiler skips checking a module's hooks by default
(`skip_nnmodule_hook_guards`), so a hook that comes after the first compiled call would silently do
nothing. And it would trace what a scope runs, which depends on the thread that calls, into code
that every thread runs.

`hooks_change` is called, under the lock, whenever what stands on a module is about to change. In a
process that never compiles it is one look into `sys.modules`. The order of events in one that does:

1. A model is given to `torch.compile`, and perhaps called.
2. The first hook that changes after that takes our methods from the compiler:
   `test_first_scope_after_the_first_call`.
3. From then on compiled code is guarded by the hooks of its modules, and torch compiles anew what a
   change makes different, once a state: `test_switching_compiles_twice_alone`.
4. What was compiled before that is not taken any more for a module that has hooks, or had some
   (`look_anew`). Code of other models stays: `test_code_of_others_stays`.
"""

import sys
from typing import Any

import torch
from torch import nn

_ours: list[tuple[type, str]] = []
"""Methods that are not to be traced, by class."""

left_to_python: list[bool] = []
"""Not empty once they were taken from the compiler. Code of before passes over hooks."""

WHY_NOT_COMPILED = (
    "A scope of tenterhook (capture, steer, hooks) is open, and what it runs depends on the thread "
    "that calls. With fullgraph=True place taps (model.taps) or register a hook before compiling "
    "instead, or leave fullgraph out."
)


def leave_to_python(kind: type, *methods: str) -> None:
    """Have the compiler break the graph at these methods of a class, once it is in use."""
    _ours.extend((kind, method) for method in methods)


def hooks_change() -> bool:
    """Make compiled code look at hooks, and leave scopes to Python.

    What is compiled from the first change of a hook on is guarded by the hooks of its modules.
    Returns whether there may be code from before, which passes over them.
    """
    dynamo = sys.modules.get("torch._dynamo")
    config = None if dynamo is None else getattr(dynamo, "config", None)
    if dynamo is None or config is None:
        return False
    # Importing it notes a backend `None`, as transformers does without compiling anything.
    if not (left_to_python or any(dynamo.eval_frame.cached_backends.values())):
        return False  # nothing has been given to torch.compile yet
    if not left_to_python:
        left_to_python.append(True)
        compiler: Any = torch.compiler  # this function of it has no types
        for kind, name in _ours:
            disabled = compiler.disable(getattr(kind, name), reason=WHY_NOT_COMPILED)
            setattr(kind, name, disabled)
    passed_over, config.skip_nnmodule_hook_guards = config.skip_nnmodule_hook_guards, False
    return bool(passed_over)


def look_anew(module: nn.Module, hooked: bool) -> None:
    """Have code that passes over hooks not be taken for a module, as long as it is hooked.

    Whatever was compiled with a module in it asks that the module has no `forward` of its own. So
    it is given one, that of its class. Code of other models is left alone.
    """
    own = vars(module)
    if hooked:
        own.setdefault("forward", module.forward)
    elif getattr(own.get("forward"), "__func__", None) is type(module).forward:
        del own["forward"]
