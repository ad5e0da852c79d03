"""Nested tensors, whose rows differ in length, in both layouts, through hooks and scopes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, HookError
from tenterhook.activations import shape_of
from tenterhook.hooks import Controller, Detector

pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str),
]


def rows(tensor: Tensor) -> list[Any]:
    """Return the rows of a nested tensor as lists."""
    assert tensor.is_nested
    return [row.tolist() for row in tensor.unbind()]


def nested(layout: torch.layout) -> Tensor:
    """Return rows of two and of three positions, of four features."""
    torch.manual_seed(0)
    return torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=layout)


@pytest.fixture
def model() -> HookedModel:
    """Two layers."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


class Doubles(Controller):
    """A controller."""

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        """Return twice the output."""
        return None if output is None else output * 2


class Sees(Detector):
    """A detector."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep the output's rows."""
        self.rows = rows(output)


def test_registered(model: HookedModel, layout: torch.layout) -> None:
    """Detectors and controllers see and change them as others."""
    x, sees = nested(layout), Sees()
    model.layers.register_hook("0", Doubles())
    model.layers.register_hook("1", sees)
    out = model(x)
    model.layers.clear()
    first, second = model.module.children()
    assert rows(out) == sees.rows == rows(second(first(x) * 2))


def test_captured(model: HookedModel, layout: torch.layout) -> None:
    """Captures are copies, cast if asked, fit for autograd, of inputs too."""
    x = nested(layout)
    first = next(model.module.children())
    with (
        model.capture("0") as plain,
        model.capture("0", dtype="float64") as cast,
        torch.inference_mode(),
    ):
        model(x)
    with model.capture("0", detach=False) as graph, model.capture("0", inputs=True) as given:
        model(x)
    assert rows(plain.last("0")) == rows(first(x))
    assert not plain.last("0").is_inference()
    assert not plain.last("0").requires_grad
    assert graph.last("0").requires_grad
    assert cast.last("0").dtype is torch.float64
    assert rows(given.last("0")) == rows(x)


@pytest.mark.parametrize("hook_type", ["forward", "pre_forward"])
def test_steered(model: HookedModel, layout: torch.layout, hook_type: str) -> None:
    """A function changes them on either side, and a replacement may be one."""
    x = nested(layout)
    first, second = model.module.children()
    with model.steer("1", lambda t: t * 2, hook_type=hook_type):
        out = model(x)
    assert rows(out) == rows(
        second(first(x)) * 2 if hook_type == "forward" else second(first(x) * 2)
    )
    with model.replace("0", x):
        assert rows(model(x)) == rows(second(x))
    tenterhook.assert_clean(model)


def test_gradients(model: HookedModel, layout: torch.layout) -> None:
    """A hook on the gradient is given one; torch takes another of jagged ones, of the same rows."""

    weight: Any = next(model.module.parameters())

    def backward() -> Tensor:
        weight.grad = None
        flat = torch.cat([row.reshape(-1) for row in model(nested(layout)).unbind()])
        torch.autograd.backward(flat.sum())
        found: Tensor = weight.grad
        return found

    def looks(grad: Tensor) -> None:
        assert rows(grad)

    plain = backward()
    with model.steer("0", looks, hook_type="backward"):
        assert torch.equal(backward(), plain)
    if layout is torch.jagged:
        with model.steer("0", lambda grad: grad * 2, hook_type="backward"):
            assert torch.allclose(backward(), 2 * plain)
    told = r"gradient of shape \(3,\), .* needs \(\(2, 4\), \(3, 4\)\)"
    if layout is torch.strided:
        told = "no other gradient of strided nested tensors, but of jagged"
    with (
        pytest.raises(HookError, match=told),
        model.steer("0", lambda grad: torch.zeros(3), hook_type="backward"),
    ):
        backward()


def test_shape(layout: torch.layout) -> None:
    """Its shape is that of each row."""
    assert shape_of(nested(layout)) == ((2, 4), (3, 4))
    assert shape_of(torch.zeros(2, 3)) == (2, 3)
