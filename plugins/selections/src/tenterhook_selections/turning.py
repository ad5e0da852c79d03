"""Whether the code of a module may put its sequence before its batch.

That takes a function that turns axes round, or stacks what a loop made of each token. Where the
code of a model's own classes names none, its layers keep the axes that its embeddings have.
"""

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

TURNS = frozenset(
    {
        "T",
        "adjoint",
        "einops",
        "einsum",
        "mH",
        "mT",
        "moveaxis",
        "movedim",
        "pad_sequence",
        "permute",
        "rearrange",
        "stack",
        "swapaxes",
        "swapdims",
        "t",
        "transpose",
        "transpose_",
        "unbind",
    }
)
"""Names of what turns axes round."""

_KNOWN = ("torch", "builtins")


def may_turn(model: nn.Module) -> bool:
    """Whether code of a class in a model, torch's own left out, names what turns axes round."""
    modules = list(model.modules())
    held = (value for module in modules for value in vars(module).values())
    if any(_turns(value, set()) for value in held):  # a function that was given
        return True
    return any(_class_may_turn(kind) for kind in set(map(type, modules)))


def _class_may_turn(kind: type) -> bool:
    found = _answers.get(kind)
    if found is None:
        seen: set[int] = set()
        own = (each for each in kind.__mro__ if not _is_known(each))
        found = any(_turns(value, seen) for each in own for value in vars(each).values())
        _answers[kind] = found
    return found


_answers: dict[type, bool] = {}


def _turns(value: Any, seen: set[int]) -> bool:
    """Whether a function, or one that it calls by its name, names what turns axes round."""
    value = getattr(value, "__wrapped__", getattr(value, "__func__", value))
    value = getattr(value, "fget", value)
    if not isinstance(value, FunctionType) or _is_known(value) or id(value) in seen:
        return False
    seen.add(id(value))
    names = {name for code in _codes(value.__code__) for name in code.co_names}
    around = inspect.getclosurevars(value)
    called = (*around.globals.values(), *around.nonlocals.values())
    return bool(names & TURNS) or any(_turns(each, seen) for each in called)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _is_known(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in _KNOWN
