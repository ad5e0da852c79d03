"""Functions that run as Python where `torch.compile` traces what is around them."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def eager(function: F) -> F:
    """Return `function` so that the compiler leaves it, and what it calls, to Python.

    `torch.compiler.disable` does that, and imports the compiler, which takes seconds; so it is
    called only in a process that has imported it.
    """
    disabled: Any = None

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args)
        if disabled is None:
            compiler: Any = torch.compiler  # this function of it has no types
            disabled = compiler.disable(function, reason=f"{function.__qualname__} runs as Python.")
        return disabled(*args)

    return run  # type: ignore[return-value]
