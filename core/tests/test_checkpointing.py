"""Activation checkpointing, which runs layers again during `backward()`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

import tenterhook
from tenterhook import HookedModel
from tenterhook.hooks import Controller


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return out


@pytest.fixture
def model() -> HookedModel:
    """A model whose middle is checkpointed."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Linear(3, 3), _Checkpointed(), nn.Linear(3, 1)))


X = torch.linspace(-1, 1, 6).reshape(2, 3)
VECTOR = torch.tensor([1.0, -2.0, 0.5])
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "times": lambda h: 3 * h,
    "plus": lambda h: h + VECTOR,
    "saves": lambda h: h.sigmoid(),
    "constant": lambda h: torch.ones(2, 3),
}


def gradients(model: HookedModel, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return the gradients of all parameters."""
    weights = list(model.module.parameters())
    return list(
        torch.autograd.grad(run(X).sum(), weights, allow_unused=True, materialize_grads=True)
    )


def unchecked(model: HookedModel) -> Callable[[Tensor], Tensor]:
    """Return what runs the model's layers without checkpointing."""
    net: Any = model.module

    def run(x: Tensor) -> Tensor:
        out: Tensor = net[2](net[1].inner(net[0](x)))
        return out

    return run


class TestSteered:
    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    @pytest.mark.parametrize("layer", ["1.inner.0", "1.inner.1", "1.inner.2"])
    @pytest.mark.parametrize("change", CHANGES)
    def test_backward_within(self, model: HookedModel, layer: str, change: str, kind: str) -> None:
        """Gradients are those without checkpointing while the scope is open."""
        with model.steer(layer, CHANGES[change], hook_type=kind):
            found = gradients(model, model)
            expected = gradients(model, unchecked(model))
        assert all(torch.allclose(*pair) for pair in zip(found, expected, strict=True))

    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    @pytest.mark.parametrize("change", CHANGES)
    def test_backward_afterwards(self, model: HookedModel, change: str, kind: str) -> None:
        """Once the scope has ended, the layer would run without the change: an error."""
        with model.steer("1.inner.1", CHANGES[change], hook_type=kind):
            out = model(X).sum()
        with pytest.raises(CheckpointError, match="saved"):
            out.backward()

    def test_no_change(self, model: HookedModel) -> None:
        """A scope that only looks on may end before."""
        expected = gradients(model, model)
        seen: list[Tensor] = []
        with model.capture("1.inner.1"), model.steer("1.inner.1", seen.append):
            out = model(X).sum()
        weights = list(model.module.parameters())
        found = torch.autograd.grad(out, weights)
        assert len(seen) == 1
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


class _Sigmoid(Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output.sigmoid()


@pytest.mark.parametrize("policy", ["raise", "warn", "disable"])
def test_the_end_of_a_second_run(model: HookedModel, policy: Any) -> None:
    """Checkpointing ends the second run by an exception, in a hook maybe: none of the hook's."""
    hook = _Sigmoid()
    model.on_error = policy
    model.layers.register_hook("1.inner.2", hook)
    found = gradients(model, model)
    expected = gradients(model, unchecked(model))
    assert hook.enabled
    assert all(torch.allclose(*pair) for pair in zip(found, expected, strict=True))
