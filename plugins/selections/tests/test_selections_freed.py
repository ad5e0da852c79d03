"""A model is freed as soon as it is dropped, whatever scopes it had."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel

X = torch.linspace(-1, 1, 12).reshape(2, 3, 2)

SCOPES: dict[str, Callable[[HookedModel], Any]] = {
    "capture": lambda m: m.capture("0", "1"),
    "inputs": lambda m: m.capture("0", inputs=True),
    "stop": lambda m: m.capture("0", stop_after="0"),
    "rows": lambda m: m.capture("0", "1", rows=0),
    "tokens": lambda m: m.capture("0", tokens=-1),
    "calls": lambda m: m.capture("0", every=2),
    "stop, rows": lambda m: m.capture("0", rows=0, stop_after="1"),
    "steer": lambda m: m.steer("0", torch.neg),
    "steer rows": lambda m: m.steer("0", torch.neg, rows=0),
    "replace": lambda m: m.replace("0", X),
}


@pytest.mark.parametrize("name", SCOPES)
@pytest.mark.parametrize("fails", [False, True])
def test_freed_without_the_collector(name: str, fails: bool) -> None:
    """No cycle holds it: gigabytes on a GPU would wait for the collector."""

    def use() -> tuple[weakref.ref[nn.Module], weakref.ref[Tensor]]:
        model = tenterhook.attach(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        try:
            with SCOPES[name](model):
                model(X)
                if fails:
                    raise KeyError
        except KeyError:
            pass
        return weakref.ref(model.module), weakref.ref(model.module[0].weight)  # type: ignore[index]

    gc.collect()
    gc.disable()
    try:
        module, weight = use()
        assert module() is None
        assert weight() is None
    finally:
        gc.enable()
