"""An edit costs what a lambda of the same change does, counted in calls of Python functions.

Times depend on what else the machine does; the calls do not, and they are most of what a call of a
hook costs beside the operation.
"""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Controller, FunctionController
from tenterhook_edits import AddVector, Clamp, MeanAblate, Patch, Scale, ZeroAblate

VECTOR = torch.arange(6.0)
X = torch.ones(2, 3, 6)


def calls_of(run: Callable[[Tensor], object]) -> int:
    """Return how many Python functions a run calls: the least found, for the collector may run."""
    counted: list[int] = []

    def count(_: object, event: str, __: object) -> None:
        counted[-1] += event == "call"

    for _ in range(4):
        counted.append(0)
        sys.setprofile(count)
        try:
            run(X)
        finally:
            sys.setprofile(None)
    return min(counted)


def registered(hook: Controller) -> int:
    """Return the calls of a forward with the hook registered, those of the bare model left out."""
    model = tenterhook.attach(nn.Sequential(nn.Identity()))
    bare = calls_of(model.module)
    model.layers.register_hook("0", hook)
    return calls_of(model.module) - bare


def steered(change: Any) -> int:
    """Return the same of a forward in a scope that steers."""
    model = tenterhook.attach(nn.Sequential(nn.Identity()))
    bare = calls_of(model.module)
    with model.steer("0", change):
        return calls_of(model.module) - bare


EDITS: dict[str, tuple[Callable[[], Controller], Callable[[Tensor], Tensor], int]] = {
    "add": (lambda: AddVector("0", VECTOR), lambda h: h + VECTOR, 0),
    "scale": (lambda: Scale("0", 2.0), lambda h: h * 2.0, 1),
    "clamp": (lambda: Clamp("0", 0.0, 1.0), lambda h: h.clamp(0.0, 1.0), 3),
    "zero": (lambda: ZeroAblate("0"), lambda h: torch.zeros_like(h), 1),
    "mean": (lambda: MeanAblate("0", VECTOR), lambda h: VECTOR.expand(h.shape).clone(), 3),
    "patch": (lambda: Patch("0", X), lambda h: X.clone(), 1),
}


@pytest.mark.parametrize(("make", "function", "more"), EDITS.values(), ids=EDITS)
class TestCalls:
    """As many calls as a lambda, and so many for what an edit looks at."""

    def test_registered(
        self, make: Callable[[], Controller], function: Callable[[Tensor], Tensor], more: int
    ) -> None:
        """Against a registered function."""
        assert registered(make()) <= registered(FunctionController("0", function)) + more

    def test_steered(
        self, make: Callable[[], Controller], function: Callable[[Tensor], Tensor], more: int
    ) -> None:
        """Against `steer` with a function."""
        assert steered(make()) <= steered(function) + more
