"""Scopes on a module whose hooks other libraries take off, replace or wrap meanwhile."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn

import tenterhook
from tenterhook import HookedModel
from tenterhook.hooks import Controller

X = torch.ones(1, 2)


class Negate(Controller):
    """Turns the sign."""

    def modify_activations(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Return the negative of the activation."""
        return -output


@pytest.fixture
def model() -> HookedModel:
    """Three layers."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)))


def cleared(module: nn.Module) -> None:
    """Empty torch's dictionaries of hooks, as code that removes all hooks does."""
    for inner in module.modules():
        inner._forward_hooks.clear()
        inner._forward_pre_hooks.clear()


def replaced(module: nn.Module) -> None:
    """Give the modules new dictionaries of hooks, as other such code does."""
    for inner in module.modules():
        inner._forward_hooks = OrderedDict()
        inner._forward_pre_hooks = OrderedDict()


SCOPES: dict[str, Callable[[HookedModel], Any]] = {
    "capture": lambda m: m.capture("0", "1", "2", missing="ignore"),
    "inputs": lambda m: m.capture("0", inputs=True, missing="ignore"),
    "steer": lambda m: m.steer("1", torch.neg, missing="ignore"),
    "before": lambda m: m.steer("1", torch.neg, hook_type="pre_forward", missing="ignore"),
}


@pytest.mark.parametrize("name", SCOPES)
@pytest.mark.parametrize("remove", [cleared, replaced])
class TestHooksTakenOff:
    def test_scope_ends(
        self, model: HookedModel, remove: Callable[[nn.Module], None], name: str
    ) -> None:
        """The scope ends without an error, and nothing counts as open after it."""
        plain = model(X)
        with SCOPES[name](model):
            remove(model.module)
            assert torch.equal(model(X), plain)
        tenterhook.assert_clean(model)

    def test_nested(
        self, model: HookedModel, remove: Callable[[nn.Module], None], name: str
    ) -> None:
        """So do all that are open, of whichever kind, and with hooks registered."""
        model.layers.register_hook("1", Negate())
        with ExitStack() as scopes:
            for scope in SCOPES.values():
                scopes.enter_context(scope(model))
            remove(model.module)
        model.layers.clear()
        tenterhook.assert_clean(model)

    def test_later_scopes(
        self, model: HookedModel, remove: Callable[[nn.Module], None], name: str
    ) -> None:
        """What is opened or registered afterwards runs.

        After new dictionaries the next capture may find nothing, and says so; the one after it is
        right.
        """
        with SCOPES[name](model):
            remove(model.module)
            model(X)
        plain = model(X)
        with model.capture("0", "1", "2", missing="ignore"):
            model(X)
        with model.steer("2", torch.neg):
            assert torch.equal(model(X), -plain)
        with model.capture("0", "1", "2") as captured:
            model(X)
        assert torch.equal(captured.last("2"), plain)
        model.layers.register_hook("2", Negate())
        assert torch.equal(model(X), -plain)
        model.layers.clear()
        tenterhook.assert_clean(model)
