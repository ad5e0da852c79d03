"""Controllers and captures of another part of an output than its activation."""

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, HookError
from tenterhook.hooks import Controller, HookWarning

ONE = torch.ones(1, 2)


class Pair(NamedTuple):
    """A named tuple."""

    hidden: Tensor
    extra: Any


@dataclasses.dataclass
class Data:
    """A dataclass, of which not every field is given at the start."""

    hidden: Tensor
    extra: Any = dataclasses.field(kw_only=True)
    late: Any = dataclasses.field(init=False, default=None)


@attrs.frozen
class Frozen:
    """A frozen class."""

    hidden: Tensor
    extra: Any = attrs.field(kw_only=True)


class Makes(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        """Return it."""
        return self.make(x)


class Negates(Controller):
    """A controller with a part of its own."""

    def __init__(self, hook_type: str = "forward", **part: Any) -> None:
        super().__init__(hook_type)
        vars(self).update(part)

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        """Negate it."""
        return None if output is None else -output


def attached(make: Callable[[Tensor], Any]) -> HookedModel:
    """Return a model with one layer, `0`, which makes what the function does."""
    return tenterhook.attach(nn.Sequential(Makes(make)))


# What a layer returns, the part, and how to find it there by hand.
PARTS: list[Any] = [
    (lambda x: (x, x * 2, "rest"), {"item": 1}, lambda out: out[1]),
    (lambda x: [x, x * 2], {"item": -1}, lambda out: out[1]),
    (lambda x: (x, (x * 3, x * 2)), {"item": 1}, lambda out: out[1][0]),
    (lambda x: Pair(x, x * 2), {"field": "extra"}, lambda out: out.extra),
    (lambda x: Pair(x, [x, x * 2]), {"field": "extra", "item": 1}, lambda out: out.extra[1]),
    (lambda x: torch.max(x, 1), {"field": "values"}, lambda out: out.values),
    (lambda x: Data(x, extra=x * 2), {"field": "extra"}, lambda out: out.extra),
    (lambda x: Data(x, extra=x * 2), {"field": "hidden"}, lambda out: out.hidden),
    (lambda x: Frozen(x, extra=(x, x * 2)), {"field": "extra", "item": 1}, lambda o: o.extra[1]),
    (lambda x: {"a": x, "b": x * 2}, {"field": "b"}, lambda out: out["b"]),
    (lambda x: collections.OrderedDict(a=x, b=x * 2), {"field": "b"}, lambda out: out["b"]),
]
OF_EACH = pytest.mark.parametrize(("make", "part", "find"), PARTS)


def flat(value: Any) -> list[Any]:
    """Return the tensors of an output, and what else it holds, in order."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Data | Frozen):
        return [flat(getattr(value, name)) for name in ("hidden", "extra")]
    if isinstance(value, dict):
        return [flat(each) for each in value.values()]
    return [flat(each) for each in value] if isinstance(value, tuple | list) else [value]


class TestControllers:
    @OF_EACH
    @pytest.mark.parametrize("how", ["registered", "controller", "function"])
    def test_part_alone_is_changed(self, make: Any, part: Any, find: Any, how: str) -> None:
        """The part is replaced; all else, and the type of the whole, stays."""
        model = attached(make)
        expected, plain = make(ONE.clone()), make(ONE)
        if how == "registered":
            model.layers.register_hook("0", Negates(**part))
            out = model(ONE)
        elif how == "controller":
            with model.steer("0", Negates(**part)):
                out = model(ONE)
        else:
            with model.steer("0", torch.neg, **part):
                out = model(ONE)
        assert type(out) is type(expected)
        assert torch.equal(find(out), -find(expected))
        find(expected).neg_()
        assert flat(out) == flat(expected) != flat(plain)

    def test_every_tensor_of_a_field(self) -> None:
        """With `every_tensor` it is called for each tensor of the part."""
        model = attached(lambda x: {"a": (x, x), "b": x})
        with model.steer("0", Negates(field="a", every_tensor=True)):
            assert flat(model(ONE)) == [[[[-1, -1]], [[-1, -1]]], [[1, 1]]]

    @pytest.mark.parametrize(
        ("part", "told"),
        [
            ({"item": 2}, r"tuple has no 2, only -2, -1, 0, 1\."),
            ({"field": "hidden"}, r"tuple has no 'hidden', only"),
            ({"item": 1, "field": 0}, "field=0, item=1: a field is a str, an item an int"),
            ({"item": True}, "field=None, item=True: a field is a str"),
        ],
    )
    def test_part_that_is_not_there(self, part: Any, told: str) -> None:
        """What there is instead is named, with the layer; what can be no part, at once."""
        model = attached(lambda x: (x, x))
        with pytest.raises((HookError, TypeError), match=told), model.steer("0", torch.neg, **part):
            model(ONE)
        tenterhook.assert_clean(model)

    def test_item_of_a_tensor(self) -> None:
        """An item is one of a tuple or list, never a row of a tensor."""
        model = attached(lambda x: x)
        with (
            pytest.raises(
                HookError, match=r"Layer '0': Steering .*: Tensor has no 0, only nothing"
            ),
            model.steer("0", torch.neg, item=0),
        ):
            model(ONE)

    def test_part_without_a_tensor(self) -> None:
        """A part that is no tensor is left alone, which is said."""
        model = attached(lambda x: (x, None))
        with (
            pytest.warns(HookWarning, match="'0': .*changed nothing, .* NoneType, which holds no"),
            model.steer("0", torch.neg, item=1),
        ):
            assert flat(model(ONE)) == [[[1, 1]], [None]]

    def test_skipped_after_a_failure(self) -> None:
        """The model's policy for errors holds."""
        model = attached(lambda x: (x, x))
        model.on_error = "warn"
        with (
            pytest.warns(HookWarning, match="tuple has no 5, .*Its result is skipped"),
            model.steer("0", torch.neg, item=5),
        ):
            assert flat(model(ONE)) == [[[1, 1]], [[1, 1]]]

    @pytest.mark.parametrize("hook_type", ["pre_forward", "backward"])
    def test_of_outputs_alone(self, hook_type: str) -> None:
        """Before the module, and in a gradient, there is no output, so nothing is registered."""
        model = attached(lambda x: (x, x))
        told = f"item=1 are of an output, and a {hook_type} hook sees none"
        with pytest.raises(ValueError, match=told):
            model.layers.register_hook("0", Negates(hook_type, item=1))
        hook = Negates(item=1)
        with pytest.raises(ValueError, match=told):
            model.layers.register_hook("0", hook, hook_type)
        assert len(model.layers) == 0
        assert hook.hook_type == "forward"
        with pytest.raises(ValueError, match=told), model.steer("0", Negates(hook_type, item=1)):
            pass
        tenterhook.assert_clean(model)

    def test_controllers_have_their_own(self) -> None:
        """A part is not given twice."""
        model = attached(lambda x: (x, x))
        with pytest.raises(ValueError, match=r"Negates\(.*has its own item; leave item out"):
            model.steer("0", Negates(item=0), item=1)

    def test_gradients(self) -> None:
        """Autograd sees the change."""
        x = ONE.clone().requires_grad_()
        model = attached(lambda x: (x * 1, x * 2))
        with model.steer("0", lambda t: t * 10, item=1):
            model(x)[1].sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [[20, 20]]

    def test_compiled(self) -> None:
        """What is registered before compiling is traced whole."""
        model = attached(lambda x: (x, {"a": x * 2}["a"]))
        model.layers.register_hook("0", Negates(item=1))
        compiled = torch.compile(model.module, backend="eager", fullgraph=True)
        assert flat(compiled(ONE)) == [[[1, 1]], [[-2, -2]]]


class TestCaptures:
    @OF_EACH
    def test_part_alone_is_kept(self, make: Any, part: Any, find: Any) -> None:
        """A capture keeps the part, and one beside it of the whole the activation."""
        model = attached(make)
        with model.capture("0", **part) as captured, model.capture("0") as whole:
            out = model(ONE)
        assert captured.last("0").tolist() == find(out).tolist()
        assert captured.last("0") is not find(out)
        assert len(whole["0"]) == 1

    def test_several(self) -> None:
        """One layer may be captured for several parts, scope after scope."""
        model = attached(lambda x: (x, x * 2, x * 3))
        for _ in range(2):
            with model.capture("0", item=1) as one, model.capture("0", item=2, dtype="int8") as two:
                model(ONE)
            assert one.last("0").tolist() == [[2, 2]]
            assert (two.last("0").tolist(), two.last("0").dtype) == ([[3, 3]], torch.int8)

    def test_what_is_not_there(self) -> None:
        """A part that the layer does not return raises, one without a tensor is reported."""
        model = attached(lambda x: (x, None))
        with (
            pytest.raises(LookupError, match="Layer '0': tuple has no 'x', only -2, -1, 0, 1"),
            model.capture("0", field="x", missing="ignore"),
        ):
            model(ONE)
        with (
            pytest.warns(HookWarning, match="'0' returned NoneType, which holds no tensor"),
            model.capture("0", item=1),
        ):
            model(ONE)
        with pytest.raises(ValueError, match="item=1 are of outputs; leave inputs out"):
            model.capture("0", item=1, inputs=True)
        with pytest.raises(TypeError, match="item=True: a field is a str, an item an int"):
            model.capture("0", item=True)


class TestWhere:
    """A function that is to know where it is."""

    def test_layer_is_told(self) -> None:
        """A function with a parameter `layer`, beside the tensor, is given the name there."""
        model = tenterhook.attach(nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity())))
        told: list[str] = []

        def keeps(tensor: Tensor, layer: str) -> None:
            told.append(layer)

        class Keeps:
            def method(self, tensor: Tensor, *, layer: str) -> None:
                told.append(layer)

        with model.steer("*", keeps):
            model(ONE)
            model(ONE)
        assert told == ["0", "1.0", "1"] * 2
        told.clear()
        with model.steer("output", keeps), model.steer("input", keeps, hook_type="pre_forward"):
            model.module(ONE)
        assert told == ["input", "output"]
        told.clear()
        with model.steer(0, Keeps().method):
            model(ONE)
        assert told == ["0"]

    @pytest.mark.parametrize(
        "function",
        [
            lambda layer: layer * 3,
            lambda tensor, layer=3: tensor * layer,
            functools.partial(lambda tensor, layer: tensor * layer, layer=3),
            functools.partial(torch.mul, torch.tensor(3)),
            nn.Linear(1, 1).requires_grad_(False),
        ],
        ids=["the tensor itself", "a default", "bound", "of torch", "a module"],
    )
    def test_other_functions_are_called_as_ever(self, function: Any) -> None:
        """With the tensor alone."""
        if isinstance(function, nn.Linear):
            function.weight.fill_(3)
            function.bias.zero_()
        model = tenterhook.attach(nn.Sequential(nn.Identity()))
        with model.steer("0", function):
            assert model(torch.ones(1, 1)).tolist() == [[3]]
