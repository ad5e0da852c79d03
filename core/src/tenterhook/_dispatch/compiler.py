"""What `torch.compile` has to know of hooks: which of our code it must leave to Python, and when.

Two faults are kept away. The compiler skips checking a module's hooks by default
(`skip_nnmodule_hook_guards`), so a hook that comes after the first compiled call would silently do
nothing. And it would trace what a scope runs, which depends on the thread that calls, into code
that every thread runs.

`hooks_change` is called, under the lock, whenever what stands on a module is about to change. In a
process that never compiles it is a look or two. The order of events in one that does:

1. From the first change on, code is compiled with guards for the hooks of its modules, and torch
   compiles anew what a change makes different, once a state: `test_switching_compiles_twice_alone`.
   Where the compiler is imported later, that is set then (`_AtImport`); code that was compiled of
   another model of the class is not taken for a hooked one: `test_another_of_the_class`.
2. The first hook that changes once a model was given to `torch.compile` takes our methods from the
   compiler: `test_first_scope_after_the_first_call`.
3. What was compiled before 1 is not taken any more for a module that has hooks, or had some
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
    dynamo: Any = sys.modules.get("torch._dynamo")
    config = getattr(dynamo, "config", None)
    if config is None:
        if _at_import not in sys.meta_path:
            sys.meta_path.insert(0, _at_import)
        return False
    passed_over, config.skip_nnmodule_hook_guards = config.skip_nnmodule_hook_guards, False
    # Importing it notes a backend `None`, as transformers does without compiling anything.
    if not (left_to_python or any(dynamo.eval_frame.cached_backends.values())):
        return False  # nothing has been given to torch.compile yet
    if not left_to_python:
        left_to_python.append(True)
        compiler: Any = torch.compiler  # this function of it has no types
        for kind, name in _ours:
            setattr(kind, name, compiler.disable(getattr(kind, name), reason=WHY_NOT_COMPILED))
    return bool(passed_over)


class _AtImport:
    """Has code be guarded by hooks where the compiler is imported after the first of them.

    Else what another model of the same class was compiled to would be taken for a hooked one.
    """

    def find_spec(self, *_: Any) -> None:
        """Find nothing; of the compiler's imports the first after its settings changes one."""
        config = sys.modules.get("torch._dynamo.config")
        if hasattr(config, "skip_nnmodule_hook_guards"):
            sys.meta_path[:] = [each for each in sys.meta_path if each is not self]
            config.skip_nnmodule_hook_guards = False  # type: ignore[union-attr]


_at_import: Any = _AtImport()


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
