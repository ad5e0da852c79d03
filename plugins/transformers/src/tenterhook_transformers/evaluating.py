"""Eval mode for a while, shared by all threads that want it of one model."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_lock = threading.Lock()


class _Evaluation:
    """How many want a model in eval mode, and which of its modules were training before."""

    def __init__(self, training: list[nn.Module]) -> None:
        self.count = 0
        self.training = training


_open: "weakref.WeakKeyDictionary[nn.Module, _Evaluation]" = weakref.WeakKeyDictionary()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have the model in eval mode; the last to leave restores the modes that the first found."""
    with _lock:
        state = _open.get(module)
        if state is None:
            state = _open[module] = _Evaluation([m for m in module.modules() if m.training])
            if state.training:
                module.eval()
        state.count += 1
    try:
        yield
    finally:
        with _lock:
            state.count -= 1
            if state.count == 0:
                del _open[module]
                for inner in state.training:
                    inner.training = True
