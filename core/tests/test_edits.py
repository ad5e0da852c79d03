"""`Edit`: a controller that is a function of the activation alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel
from tenterhook.hooks import Controller, Detector, Edit, HookError


class Times(Edit):
    """Multiplies."""

    by: float = 2.0

    def function(self, activation: Tensor) -> Tensor | None:
        """Return the product; of one, nothing."""
        return None if self.by == 1 else activation * self.by


@pytest.fixture
def model() -> HookedModel:
    """Return two modules that hand their input through."""
    return tenterhook.attach(nn.Sequential(nn.Identity(), nn.Identity()))


X = torch.arange(6.0).reshape(2, 3)


def changed(model: HookedModel, hook: Controller, x: Tensor = X) -> Any:
    """Return what comes of `x` with the hook registered; the same comes of it in a scope."""
    model.layers.register_hook("0", hook)
    found = model(x)
    model.layers.unregister_hook(hook)
    with model.hooks(("0", hook)):
        assert torch.equal(model(x), found)
    return found


@pytest.mark.parametrize("hook_type", ["forward", "pre_forward"])
def test_its_function_is_applied(model: HookedModel, hook_type: str) -> None:
    """On either side; what it returns counts, and `None` leaves the activation."""
    hook = Times(hook_type)
    assert torch.equal(changed(model, hook), X * 2)
    hook.by = 1.0
    assert torch.equal(changed(model, hook), X)


def test_it_is_applied_to_gradients(model: HookedModel) -> None:
    """A `backward` hook's function is given the gradient."""
    x = X.clone().requires_grad_()
    model.layers.register_hook("0", Times("backward"))
    model(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(X, 2.0))


def test_inference_tensors(model: HookedModel) -> None:
    """They count no writes, and are changed all the same."""
    with torch.inference_mode():
        assert torch.equal(changed(model, Times(), X * 1), X * 2)


def test_a_function_that_is_an_attribute_may_change(model: HookedModel) -> None:
    """The one of now is applied, registered or in a scope."""

    class Given(Edit):
        def __init__(self) -> None:
            super().__init__()
            self.function = torch.neg

    hook = Given()
    model.layers.register_hook("0", hook)
    assert torch.equal(model(X), -X)
    hook.function = torch.square
    assert torch.equal(model(X), X * X)


def test_a_subclass_may_do_otherwise(model: HookedModel) -> None:
    """Its own `modify_activations` counts, of the class, of one beside it, or of the hook."""

    class Thrice(Times):
        def modify_activations(self, module: Any, inputs: Any, output: Any) -> Any:
            return 3 * super().modify_activations(module, inputs, output)

    class Nothing:
        def modify_activations(self, module: Any, inputs: Any, output: Any) -> None:
            return None

    class Beside(Nothing, Times):
        pass

    own = Times()
    own.modify_activations = lambda *given: given[-1] - 1  # type: ignore[method-assign]
    assert torch.equal(changed(model, Thrice()), X * 6)
    assert torch.equal(changed(model, Beside()), X)
    assert torch.equal(changed(model, own), X - 1)


def test_what_is_no_tensor(model: HookedModel) -> None:
    """`checked` is asked of it, and says what is wrong; else the hook does."""

    class Strict(Times):
        def function(self, activation: Tensor) -> Any:
            return "words"

        def checked(self, made: object) -> object:
            raise TypeError(f"{made} are no tensor")

    class Lax(Strict):
        def checked(self, made: object) -> object:
            return made

    for hook, what in ((Strict(), "words are no tensor"), (Lax(), "It returned str")):
        with pytest.raises(HookError, match=what), model.hooks(("0", hook)):
            model(X)


@pytest.mark.parametrize("scoped", [False, True])
def test_a_write_is_found(model: HookedModel, scoped: bool) -> None:
    """A function must not write to the activation, unless it promised that it does not."""

    class Writes(Edit):
        def function(self, activation: Tensor) -> None:
            activation.zero_()

    class Promises(Writes):
        reads_only = True

    def run(hook: Edit) -> None:
        if not scoped:
            model.layers.register_hook("0", hook)
            model(X.clone())
        else:
            with model.hooks(("0", hook)):
                model(X.clone())

    run(Promises())
    model.layers.clear()
    with pytest.raises(HookError, match="The controller wrote to the activation in place"):
        run(Writes())


def test_one_that_detects_too(model: HookedModel) -> None:
    """It sees the activation first, and then changes it."""

    class Both(Detector, Times):
        def process_activations(self, module: Any, input: Any, output: Any) -> None:
            self.tensor_metadata["seen"] = output

    hook = Both()
    assert torch.equal(changed(model, hook), X * 2)
    assert torch.equal(hook.tensor_metadata["seen"], X)
