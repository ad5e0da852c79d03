"""The controller that applies a function."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
import tenterhook_function_controller
from tenterhook.hooks import Controller, HookError, HookType, HookWarning
from tenterhook.plugins import PluginManager
from tenterhook_function_controller import FunctionController, plugin

ONE = torch.ones(1, 2)


def double(tensor: Tensor) -> Tensor:
    """Return twice the tensor."""
    return tensor * 2


class _Returns(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        """Return it."""
        return self.make(x)


def run(module: nn.Module, controller: FunctionController, x: Any = ONE) -> Any:
    """Run the module with the controller registered where it was made for."""
    model = tenterhook.attach(module)
    assert controller.layer_signature is not None
    model.layers.register_hook(controller.layer_signature, controller)
    return model(x)


class TestMaking:
    def test_defaults(self) -> None:
        """It is a controller after the module, of the layer and function that were given."""
        controller = FunctionController("0", double)

        assert isinstance(controller, Controller)
        assert controller.hook_type is HookType.FORWARD
        assert controller.layer_signature == "0"
        assert controller.function is double
        assert controller.every_tensor is False

    def test_arguments(self) -> None:
        """Layer, function, type and id, in this order and by these names."""
        for controller in (
            FunctionController("0", double, "pre_forward", "mine"),
            FunctionController(
                layer_signature="0", function=double, hook_type="pre_forward", hook_id="mine"
            ),
        ):
            assert (controller.hook_type, controller.id) == ("pre_forward", "mine")

    @pytest.mark.parametrize("function", [None, 3, "double", ONE], ids=["none", "3", "text", "t"])
    def test_needs_a_function(self, function: Any) -> None:
        """What cannot be called is a `ValueError` that shows what can."""
        with pytest.raises(ValueError, match=r"function=.* cannot be called.*lambda x"):
            FunctionController("0", function)

    def test_function_left_out(self) -> None:
        """Without a function there is a `ValueError` as well."""
        with pytest.raises(ValueError, match="function=None cannot be called"):
            FunctionController("0")

    def test_unknown_type(self) -> None:
        """A type that is none is refused."""
        with pytest.raises(ValueError, match="'after' is not a hook type"):
            FunctionController("0", double, "after")

    def test_other_package(self) -> None:
        """`tenterhook.hooks` hands out the same class."""
        from tenterhook.hooks import FunctionController as Served

        assert Served is FunctionController

    def test_public_names(self) -> None:
        """The package gives out its controller, and nothing of any other name."""
        assert tenterhook_function_controller.__all__ == ["FunctionController"]
        with pytest.raises(AttributeError, match="has no attribute 'Other'"):
            tenterhook_function_controller.Other  # noqa: B018

    def test_declared(self) -> None:
        """The plugin declares it as a controller."""
        manager = PluginManager(autoload=False)
        manager.register(plugin)
        assert manager.extension("controllers", "FunctionController").load() is FunctionController


class TestApplying:
    @pytest.mark.parametrize(
        "function",
        [
            pytest.param(double, id="function"),
            pytest.param(lambda t: t + t, id="lambda"),
            pytest.param(functools.partial(torch.mul, 2), id="partial"),
            pytest.param(_Returns(double), id="module"),
        ],
    )
    def test_anything_callable(self, function: Any) -> None:
        """Whatever takes a tensor and returns one."""
        assert run(nn.Sequential(nn.Identity()), FunctionController(0, function)).tolist() == [
            [2, 2]
        ]

    @pytest.mark.parametrize(
        ("kind", "expected"), [("forward", [[4, 4]]), ("pre_forward", [[3, 3]])]
    )
    def test_side(self, kind: str, expected: Any) -> None:
        """After the module it changes the output, before it the first input."""
        module = nn.Sequential(_Returns(lambda x: x + 1))
        assert run(module, FunctionController(0, double, kind)).tolist() == expected

    def test_gradient(self) -> None:
        """A backward controller changes the gradient."""
        x = ONE.clone().requires_grad_()
        run(
            nn.Sequential(nn.Identity()), FunctionController(0, double, "backward"), x
        ).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [[2, 2]]

    def test_shape_and_dtype(self) -> None:
        """The result may have another shape and dtype."""
        function = FunctionController(0, lambda t: t.to(torch.float64)[..., None])
        out = run(nn.Sequential(nn.Identity()), function)
        assert (out.shape, out.dtype) == ((1, 2, 1), torch.float64)

    def test_equals_a_bare_hook(self) -> None:
        """Output and gradients are those of a bare torch hook, to the bit."""
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
        bare = copy.deepcopy(module)
        bare[0].register_forward_hook(lambda m, a, out: torch.abs(out))

        run(module, FunctionController(0, torch.abs)).sum().backward()
        bare(ONE).sum().backward()

        assert all(
            torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
            for one, other in zip(module.parameters(), bare.parameters(), strict=True)
        )

    def test_keyword_input(self) -> None:
        """Before a module it changes the first input also if it was passed by keyword."""
        module = _Returns(lambda x: x)
        model = tenterhook.attach(module)
        model.layers.register_hook("input", FunctionController("input", double, "pre_forward"))
        assert model(x=ONE).tolist() == [[2, 2]]

    def test_on_a_bare_module(self) -> None:
        """It works as a torch hook, with no tenterhook model around it."""
        module = nn.Identity()
        module.register_forward_hook(FunctionController("any", double).get_torch_hook())
        assert module(ONE).tolist() == [[2, 2]]

    def test_disabled(self) -> None:
        """Disabled it does nothing, the output is the very object."""
        controller = FunctionController(0, double)
        controller.disable()
        assert run(nn.Sequential(nn.Identity()), controller) is ONE


class TestStructures:
    def test_the_activation_alone(self) -> None:
        """By default the first tensor of a structure is changed, the rest are the same objects."""
        out = run(nn.Sequential(_Returns(lambda x: (None, x, ONE))), FunctionController(0, double))
        assert out[0] is None
        assert out[1].tolist() == [[2, 2]]
        assert out[2] is ONE

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_every_tensor(self, kind: Any) -> None:
        """With `every_tensor` each tensor of a tuple or list is, in a new one of its type."""
        rest = object()
        given = kind([ONE, rest, None, ONE + 1])
        controller = FunctionController(0, double, every_tensor=True)
        out = run(nn.Sequential(_Returns(lambda x: given)), controller)

        assert type(out) is kind
        assert [out[0].tolist(), out[3].tolist()] == [[[2, 2]], [[4, 4]]]
        assert out[1] is rest
        assert out[2] is None
        assert given[0] is ONE

    @pytest.mark.parametrize(
        "make", [lambda x: x, lambda x: {"a": x, "b": x + 1}], ids=["tensor", "dict"]
    )
    def test_every_tensor_elsewhere(self, make: Any) -> None:
        """Of anything but a tuple or list the activation is changed."""
        controller = FunctionController(0, double, every_tensor=True)
        out = run(nn.Sequential(_Returns(make)), controller)
        assert (out if isinstance(out, Tensor) else out["a"]).tolist() == [[2, 2]]
        if isinstance(out, dict):
            assert out["b"].tolist() == [[2, 2]]

    def test_every_tensor_of_a_named_tuple(self) -> None:
        """A named tuple stays one."""
        controller = FunctionController(0, lambda t: t + 1, every_tensor=True)
        out = run(nn.Sequential(_Returns(lambda x: x.max(dim=1))), controller)
        assert type(out) is torch.return_types.max
        assert (out.values.tolist(), out.indices.tolist()) == ([2], [1])

    def test_part_of_an_output(self) -> None:
        """With `field` and `item` it is applied to that part."""
        controller = FunctionController(0, torch.neg, field="a", item=1)
        out = run(nn.Sequential(_Returns(lambda x: {"a": (x, x), "b": x})), controller)
        assert [t.tolist() for t in (*out["a"], out["b"])] == [[[1, 1]], [[-1, -1]], [[1, 1]]]


class TestErrors:
    @pytest.mark.parametrize(
        "result", [None, 3, "text", (ONE,)], ids=["none", "3", "text", "tuple"]
    )
    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    def test_no_tensor(self, result: Any, kind: str) -> None:
        """A function that returns anything but a tensor is named with what it returned."""

        def odd(tensor: Tensor) -> Any:
            return result

        controller = FunctionController(0, odd, kind, "mine")
        with pytest.raises(
            HookError,
            match=rf"Layer '0': FunctionController 'mine' \({kind}\) failed: TypeError: .*"
            rf"'odd' returned {type(result).__name__}",
        ) as caught:
            run(nn.Sequential(nn.Identity()), controller)
        assert (caught.value.hook_id, caught.value.layer_signature) == ("mine", "0")

    @pytest.mark.parametrize("every", [False, True])
    def test_raising(self, every: bool) -> None:
        """What the function raises surfaces with hook, layer and cause."""
        controller = FunctionController(0, lambda t: t @ torch.ones(7), every_tensor=every)
        with pytest.raises(
            HookError, match=r"Layer '0': FunctionController .* failed: RuntimeError: .*"
        ) as e:
            run(nn.Sequential(_Returns(lambda x: (x, x))), controller)
        assert isinstance(e.value.original_error, RuntimeError)
        assert e.value.__cause__ is e.value.original_error

    def test_writing(self) -> None:
        """A function that writes to what it is given is refused: the model may share it."""
        with pytest.raises(HookError, match="wrote to the activation in place"):
            run(
                nn.Sequential(nn.Identity()),
                FunctionController(0, lambda t: t.mul_(2)),
                ONE.clone(),
            )


def test_disabled_by_a_failure() -> None:
    """Under the policy `"disable"` the first failure is the last call, of one output too."""
    calls = []

    def fails(tensor: Tensor) -> Tensor:
        calls.append(tensor)
        raise KeyError("gone")

    model = tenterhook.attach(nn.Sequential(_Returns(lambda x: (x, x, x))))
    model.on_error = "disable"
    model.layers.register_hook(0, FunctionController(0, fails, every_tensor=True))
    with pytest.warns(HookWarning, match="It is disabled now") as said:
        out = model(ONE)

    assert (len(calls), len(said)) == (1, 1)
    assert all(item is ONE for item in out)
