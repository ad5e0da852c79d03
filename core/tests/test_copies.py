"""Copies and pickles of a module that has hooks on it, or had."""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel
from tenterhook.hooks import Controller, Detector


class _Doubles(Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        tensor = inputs if output is None else output
        return None if tensor is None else tensor * 2


class _Sees(Detector):
    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        pass


class _Both(_Sees, _Doubles):
    pass


def adds_one(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Be a torch hook of somebody else's."""
    return output + 1


@pytest.fixture
def model() -> HookedModel:
    """Three layers, the middle one with somebody else's torch hook."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].register_forward_hook(adds_one)
    return tenterhook.attach(net)


def by_torch(module: nn.Module) -> nn.Module:
    """Save a module whole and load it."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def by_pickle(module: nn.Module) -> nn.Module:
    """Pickle a module and load it."""
    loaded: nn.Module = pickle.loads(pickle.dumps(module))
    return loaded


WAYS: list[Callable[[nn.Module], nn.Module]] = [copy.deepcopy, by_pickle, by_torch]
X = torch.ones(1, 2)


def registered(model: HookedModel, scopes: ExitStack) -> None:
    """Register hooks of every kind and type."""
    for kind in (_Doubles, _Sees, _Both):
        for hook_type in ("forward", "pre_forward", "backward"):
            model.layers.register_hook("1", kind(hook_type=hook_type), mix="in_order")
    model.layers.register_hook("2", _Both())


def scoped(model: HookedModel, scopes: ExitStack) -> None:
    """Open scopes of every kind but `replace`."""
    scopes.enter_context(model.capture("0", missing="ignore"))
    scopes.enter_context(model.capture("0", "1", missing="ignore"))
    scopes.enter_context(model.capture("2", inputs=True, missing="ignore"))
    scopes.enter_context(model.steer("2", torch.neg, missing="ignore"))
    scopes.enter_context(model.hooks(("1", _Doubles("pre_forward")), missing="ignore"))


def captured(model: HookedModel, scopes: ExitStack) -> None:
    """Open a capture alone."""
    scopes.enter_context(model.capture("0", "1", "2", missing="ignore"))


def had(model: HookedModel, scopes: ExitStack) -> None:
    """Open and close all there is."""
    with ExitStack() as inner:
        scoped(model, inner)
        registered(model, inner)
        inner.enter_context(model.replace("0", X, missing="ignore"))
    model.layers.clear()


def hooks_of(module: nn.Module) -> list[Any]:
    """Return the torch hooks on a module and inside it."""
    return [
        hook
        for inner in module.modules()
        for hook in (*inner._forward_hooks.values(), *inner._forward_pre_hooks.values())
    ]


@pytest.mark.parametrize("again", WAYS)
@pytest.mark.parametrize("put", [registered, scoped, captured, had])
def test_starts_without_hooks(
    model: HookedModel,
    put: Callable[[HookedModel, ExitStack], None],
    again: Callable[[nn.Module], nn.Module],
) -> None:
    """Other people's torch hooks come along, ours do not, and the first keeps its own."""
    plain = model(X)
    with ExitStack() as scopes:
        put(model, scopes)
        before, hooked = len(hooks_of(model.module)), model.module(X)
        twin = again(model.module)
        assert hooks_of(twin) == [adds_one]
        tenterhook.assert_clean(twin)
        assert torch.equal(twin(X), plain)
        assert len(hooks_of(model.module)) == before
        assert torch.equal(model.module(X), hooked)
    model.layers.clear()


@pytest.mark.parametrize("again", WAYS)
def test_takes_hooks_of_its_own(
    model: HookedModel, again: Callable[[nn.Module], nn.Module]
) -> None:
    """A copy is a module as any."""
    model.layers.register_hook("2", _Doubles())
    twin = tenterhook.attach(again(model.module))
    assert twin is not model
    with twin.capture("2") as plain, twin.steer("2", torch.neg):
        out = twin(X)
    assert torch.equal(out, -plain.last("2"))
    twin.layers.register_hook("2", _Doubles())
    assert torch.equal(twin(X), model(X))
    assert model.layers.clear() == 1
    assert torch.equal(twin(X), 2 * model(X))
    twin.layers.clear()


def test_hooks_of_another_process(model: HookedModel, tmp_path: Path) -> None:
    """Torch numbers hooks anew in each process; none of them gets what was left of ours."""
    net: Any = model.module
    net[1] = nn.Linear(2, 2)  # adds_one is not to be imported there
    with ExitStack() as scopes:
        scoped(model, scopes)
    torch.save(net, tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        "net = torch.load(sys.argv[1], weights_only=False)\n"
        "assert 'tenterhook' not in sys.modules\n"
        "for _ in range(100):\n"
        "    for layer in net:\n"
        "        layer.register_forward_hook(lambda module, args, output: None)\n"
        "        layer.register_forward_pre_hook(lambda module, args: None)\n"
        "net(torch.ones(1, 2))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.pt")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


class _Greets(HookedModel):
    """A model of a class of its own, as plugins make them."""

    def __init__(self, module: nn.Module, greeting: str) -> None:
        super().__init__(module, model_id="greets", tokenizer=str.split, on_error="warn")
        self.greeting = greeting


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_of_the_attached_model(again: Callable[[HookedModel], HookedModel]) -> None:
    """A copy of what carries the hooks is of its class, as it was set, with its own module."""
    net = nn.Sequential(nn.Linear(2, 2))
    model = tenterhook.attach(net, make=lambda module: _Greets(module, "hello"))
    model.layers.register_hook("0", _Doubles())
    model.context.special_token_ids = [0, 1]
    twin = again(model)
    assert isinstance(twin, _Greets)
    assert twin.module is not net
    assert twin.greeting == "hello"
    assert twin.context.model_id == "greets"
    assert twin.context.tokenizer is str.split
    assert twin.context.special_token_ids == {0, 1}
    assert (twin.on_error, twin.missing) == ("warn", "warn")
    assert len(twin.layers) == 0
    assert tenterhook.attach(twin.module) is twin
    assert torch.equal(2 * twin(X), model(X))
    assert copy.copy(model) is model
