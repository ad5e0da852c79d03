"""Registered hooks that never ran: said once, by name, when the attached model was called."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, NeverFired
from tenterhook.hooks import Controller, Detector, HookWarning

ONE = torch.ones(1, 2)


class _Sees(Detector):
    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        pass


class _Doubles(Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        tensor = inputs if output is None else output
        return None if tensor is None else tensor * 2


class _EveryOne(_Doubles):
    every_tensor = True


class _Both(_Sees, _Doubles):
    pass


class _ReadsOnly(_Sees):
    reads_only = True


class _Uses(nn.Module):
    """Calls one of its parts, and goes past the hooks of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.past, self.unused = (nn.Linear(2, 2) for _ in range(3))
        self.several = nn.ModuleList([nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(self.called(x), self.past.weight)


@pytest.fixture
def model() -> HookedModel:
    """A model that does not call all it holds."""
    torch.manual_seed(0)
    return tenterhook.attach(_Uses())


def said(model: HookedModel) -> list[str]:
    """Return what a call of the model warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(ONE)
    return [str(each.message) for each in caught if each.category is HookWarning]


def test_once_by_name(model: HookedModel) -> None:
    """The first call names them, with where they stand; the next is silent."""
    model.layers.register_hook("past", _Sees(hook_id="eye"))
    model.layers.register_hook("unused", _Doubles(hook_id="hand"))
    model.layers.register_hook("called", _Sees())

    (message,) = said(model)

    assert message.startswith(
        "The model ran, and not what was registered on it: _Sees 'eye' at 'past', _Doubles 'hand' "
        "at 'unused'. Code that takes a module's weights"
    )
    assert said(model) == []


def test_module_without_a_forward(model: HookedModel) -> None:
    """Of a container it says that it never runs, in scopes as well, and blames no thread."""
    model.layers.register_hook("several", _Sees(hook_id="eye"))
    wanted = "'several' is a ModuleList that has no forward, so it never runs: give what it holds."

    (message,) = said(model)
    with pytest.raises(NeverFired) as of_capture, model.capture("several", missing="raise"):
        model(ONE)
    with pytest.raises(NeverFired) as of_hook, model.hooks(("several", _Sees()), missing="raise"):
        model(ONE)

    for each in (message, str(of_capture.value), str(of_hook.value)):
        assert each.endswith(wanted)
        assert "carry" not in each


def test_module_that_was_replaced(model: HookedModel) -> None:
    """Of a module that is there no more it says so."""
    model.layers.register_hook("called", _Sees())
    model.layers.register_hook("unused", _Sees())
    model.module.called = nn.Linear(2, 2)
    del model.module.unused

    (message,) = said(model)

    assert "is not there any more: register again" in message
    assert "'called'" in message
    assert "'unused'" in message


def test_as_an_error(model: HookedModel) -> None:
    """`missing` makes it an error, or silences it; other words are refused."""
    model.missing = "raise"
    model.layers.register_hook("past", _Sees())
    with pytest.raises(NeverFired, match=r"_Sees '.*' at 'past'"):
        model(ONE)
    model.missing = "ignore"
    model.layers.register_hook("past", _Sees())
    assert said(model) == []
    assert (model.missing, model.layers.missing) == ("ignore", "ignore")
    with pytest.raises(ValueError, match="missing='no' is not one of 'warn', 'raise', 'ignore'"):
        model.missing = "no"  # type: ignore[assignment]
    assert tenterhook.attach(nn.Identity(), missing="raise").missing == "raise"


@pytest.mark.parametrize("hook", [_Sees, _ReadsOnly, _Doubles, _EveryOne, _Both])
@pytest.mark.parametrize("kind", ["forward", "pre_forward"])
def test_what_ran(model: HookedModel, hook: Any, kind: str) -> None:
    """Hooks of every kind that ran are not named, wherever the module is called from."""
    model.layers.register_hook("called", hook(hook_type=kind))
    assert said(model) == []
    model.layers.register_hook("unused", hook(hook_type=kind))
    model.module.get_submodule("unused")(ONE)
    assert said(model) == []


def test_what_was_not_to_run(model: HookedModel) -> None:
    """Nor those that are off, hooks of gradients, and what a forward was ended before."""
    model.layers.register_hook("unused", off := _Sees())
    off.disable()
    model.layers.register_hook("past", _Sees(hook_type="backward"))
    model.layers.register_hook("output", _Doubles())
    with model.capture(stop_after="called"):
        assert model(ONE) is None
    with model.without_controllers():
        assert said(model) == []
    assert said(model) == []
    off.enable()
    assert len(said(model)) == 1


def test_compiled_whole(model: HookedModel) -> None:
    """A hook that is traced into a graph has run."""
    torch._dynamo.reset()
    model.layers.register_hook("called", _Doubles())
    model.module.compile(backend="eager", fullgraph=True)
    assert said(model) == []
    assert said(model) == []
    torch._dynamo.reset()
