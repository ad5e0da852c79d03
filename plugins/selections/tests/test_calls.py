"""Calls of modules, read off the stack: Python's frames and the name that torch gives them."""

import gc
import weakref
from typing import Any

import torch
from torch import nn

from tenterhook_selections.calls import calls_here, is_call_of, note, noted


class _Asks(nn.Module):
    """Calls `ask` in its forward."""

    def __init__(self, ask: Any) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ask()
        return x


class _Note:
    """Something that can be watched for being let go of."""


def test_each_call_is_on_the_stack() -> None:
    """torch calls `forward` in a function named `_call_impl`, whose `self` is the module."""
    found = list[list[nn.Module]]()
    inner = _Asks(lambda: found.append([frame.f_locals["self"] for frame in calls_here()]))
    outer = nn.Sequential(inner)

    outer(torch.ones(1))

    assert found == [[inner, outer]]
    assert list(calls_here()) == []


def test_what_is_noted_goes_with_the_call() -> None:
    """A frame keeps a local variable more, for as long as the call runs and no longer."""
    kept = list[weakref.ref[_Note]]()
    read = list[Any]()

    def ask() -> None:
        frame = next(calls_here())
        assert is_call_of(frame, inner)
        note(frame, inner, made := _Note())
        kept.append(weakref.ref(made))
        read.append(noted(next(calls_here()), inner) is made)

    inner = _Asks(ask)
    inner(torch.ones(1))

    gc.collect()
    assert read == [True]
    assert kept[0]() is None


def test_each_call_of_a_module_has_its_own_notes() -> None:
    """Also where a module calls itself."""
    found = list[Any]()

    def ask() -> None:
        frame = next(calls_here())
        found.append(noted(frame, inner))
        note(frame, inner, len(found))
        if len(found) < 3:
            inner(torch.ones(1))
        found.append(noted(frame, inner))

    inner = _Asks(ask)
    inner(torch.ones(1))

    assert found == [None, None, None, 3, 2, 1]
