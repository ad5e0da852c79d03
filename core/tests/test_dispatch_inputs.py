"""Hooks before a module: every way of passing an input is seen, and can be replaced."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook.activations import first_input
from tenterhook.hooks import Controller, Detector, HookError, HookWarning


class _Takes(nn.Module):
    """Adds up whatever it is given, and remembers how."""

    def forward(self, x: Any = None, mask: Any = None, *, scale: Any = None) -> Tensor:
        self.given = {"x": x, "mask": mask, "scale": scale}
        total = torch.zeros(2)
        for value in (x, mask, scale):
            items = value.values() if isinstance(value, dict) else value
            for item in [value] if isinstance(value, Tensor) else items or ():
                total = total + item
        return total


class _Sees(Detector):
    def __init__(self, hook_type: str = "pre_forward") -> None:
        super().__init__(hook_type)
        self.inputs: list[Any] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.inputs.append(input)


class _Applies(Controller):
    def __init__(self, function: Any, hook_type: str = "pre_forward") -> None:
        super().__init__(hook_type)
        self.function = function
        self.given: list[Any] = []

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Any:
        self.given.append((inputs, output))
        return self.function(inputs)


class _Both(_Sees, Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if inputs is None else inputs * 2


ONE, TWO, NEW = torch.ones(2), torch.full((2,), 2.0), torch.full((2,), 50.0)
WAYS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "positional": ((ONE, TWO), {}),
    "keyword": ((), {"x": ONE, "mask": TWO}),
    "keyword-in-another-order": ((), {"mask": TWO, "x": ONE}),
    "mixed": ((ONE,), {"mask": TWO}),
    "keyword-only": ((ONE,), {"scale": TWO}),
    "list": (([ONE], TWO), {}),
    "tuple-by-keyword": ((), {"x": (ONE, TWO)}),
    "mapping": (({"a": ONE, "b": TWO},), {}),
    "mapping-by-keyword": ((), {"mask": TWO, "x": {"a": ONE}}),
    "after-none": ((None, ONE), {"scale": TWO}),
}


def hooked(*hooks: Any) -> tuple[_Takes, nn.Module]:
    """Return a module with hooks before it, and what runs it."""
    inner = _Takes()
    model = tenterhook.attach(nn.ModuleDict({"inner": inner}))
    for hook in hooks:
        model.layers.register_hook("inner", hook, mix="in_order")
    inner.keep = model  # type: ignore[assignment]
    return inner, model.module


@pytest.mark.parametrize("way", WAYS)
class TestEveryWay:
    def test_is_seen(self, way: str) -> None:
        """A detector is given every input, as one tuple that starts with the first."""
        args, kwargs = WAYS[way]
        sees = _Sees()
        inner, _ = hooked(sees)

        assert inner(*args, **kwargs).tolist() == [3, 3]
        (given,) = sees.inputs
        assert isinstance(given, tuple)
        values = [*args, *kwargs.values()]
        assert len(given) == len(values)
        assert all(any(item is value for value in values) for item in given)
        assert first_input(given) is ONE

    def test_is_seen_after_the_module(self, way: str) -> None:
        """Keyword inputs are seen after the module as well."""
        args, kwargs = WAYS[way]
        sees = _Sees("forward")
        inner, _ = hooked(sees)

        inner(*args, **kwargs)

        assert len(sees.inputs[0]) == len(args) + len(kwargs)

    def test_is_replaced(self, way: str) -> None:
        """A tensor takes the place of the first, where it was; the caller's things stay."""
        args, kwargs = WAYS[way]
        control = _Applies(lambda x: x + 49)
        inner, _ = hooked(control)
        before = repr((args, kwargs))

        out = inner(*args, **kwargs)

        assert control.given[0][0] is ONE
        assert control.given[0][1] is None
        assert out.tolist() == [52, 52]
        assert repr((args, kwargs)) == before
        plain = _Takes()
        plain(*args, **kwargs)
        for name, value in plain.given.items():
            if not isinstance(value, Tensor | dict | list | tuple) or value is TWO:
                assert inner.given[name] is value
            else:
                assert type(inner.given[name]) is type(value)

    def test_hook_that_is_both(self, way: str) -> None:
        """It sees the inputs as they came, then changes them."""
        args, kwargs = WAYS[way]
        both = _Both()
        inner, _ = hooked(both)

        assert inner(*args, **kwargs).tolist() == [4, 4]
        assert first_input(both.inputs[0]) is ONE

    def test_none_leaves_them(self, way: str) -> None:
        """`None` leaves the inputs alone, the very objects."""
        args, kwargs = WAYS[way]
        inner, _ = hooked(_Applies(lambda x: None))
        plain = _Takes()

        assert torch.equal(inner(*args, **kwargs), plain(*args, **kwargs))
        assert all(inner.given[name] is value for name, value in plain.given.items())


class TestTuples:
    @pytest.mark.parametrize(
        ("way", "new", "expected"),
        [
            pytest.param("positional", (NEW,), {"x": NEW, "mask": None}, id="fewer"),
            pytest.param("positional", (NEW, ONE), {"x": NEW, "mask": ONE}, id="all"),
            pytest.param("keyword", (NEW, ONE), {"x": NEW, "mask": ONE}, id="all-keyword"),
            pytest.param("keyword", (NEW,), {"x": NEW, "mask": TWO}, id="first-keyword"),
            pytest.param("mixed", (NEW,), {"x": NEW, "mask": TWO}, id="positional-of-mixed"),
            pytest.param("mixed", (NEW, ONE), {"x": NEW, "mask": ONE}, id="all-mixed"),
            pytest.param("keyword-only", (NEW, ONE), {"x": NEW, "scale": ONE}, id="keyword-only"),
            pytest.param("positional", (), {"x": None, "mask": None}, id="none"),
        ],
    )
    def test_take_the_places_of_inputs(
        self, way: str, new: tuple[Any, ...], expected: dict[str, Any]
    ) -> None:
        """A controller before a module may return a tuple of inputs."""
        args, kwargs = WAYS[way]
        inner, _ = hooked(_Applies(lambda x: new))

        inner(*args, **kwargs)

        assert all(inner.given[name] is value for name, value in expected.items())

    @pytest.mark.parametrize("result", [[ONE], 3.0, {"x": ONE}], ids=["list", "number", "dict"])
    def test_anything_else_is_an_error(self, result: Any) -> None:
        """Neither a list nor a dictionary is taken for inputs."""
        inner, _ = hooked(_Applies(lambda x: result))
        with pytest.raises(HookError, match=f"It returned {type(result).__name__}; return a tens"):
            inner(ONE)

    def test_tensor_for_no_tensor(self) -> None:
        """There is no place for a tensor where no input holds one."""
        inner, _ = hooked(_Applies(lambda x: NEW))
        with pytest.raises(HookError, match="The inputs hold no tensor that could be replaced"):
            inner(None, scale=[])


def test_called_with_nothing() -> None:
    """Hooks run also where nothing is passed; a controller says that it had nothing to change."""
    sees, control = _Sees(), _Applies(lambda x: None)
    inner, _ = hooked(sees, control)

    with pytest.warns(HookWarning, match="was called without a tensor"):
        inner()

    assert sees.inputs == [()]
    assert control.given == [(None, None)]


@pytest.mark.parametrize("kind", [_Applies, _Sees])
def test_writing_is_an_error(kind: Any) -> None:
    """A hook that writes to the first input is found, passed by keyword or not."""

    class Writes(Detector):
        def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
            input[0].mul_(0)

    hook = Writes("pre_forward") if kind is _Sees else _Applies(lambda x: x.mul_(0))
    inner, _ = hooked(hook)
    with pytest.raises(HookError, match="wrote to the activation in place"):
        inner(mask=ONE, x=torch.ones(2))


def test_in_order() -> None:
    """Each controller is given what the one before it made; a detector among them sees that."""
    first, sees = _Applies(lambda x: x + 1), _Sees()
    second = _Applies(lambda x: (x * 10,))
    inner, _ = hooked(first, sees, second)

    assert inner(x=ONE, scale=TWO).tolist() == [22, 22]
    assert sees.inputs[0][0].tolist() == [2, 2]


def test_whole_model() -> None:
    """At `"input"` hooks see what the model itself is given."""
    module, sees = _Takes(), _Sees()
    model = tenterhook.attach(module)
    model.layers.register_hook("input", sees)
    model.layers.register_hook("input", _Applies(lambda x: x + 1), mix="in_order")

    assert model(mask=TWO, x=ONE).tolist() == [4, 4]
    assert [item is want for item, want in zip(sees.inputs[0], (ONE, TWO), strict=True)] == [
        True,
        True,
    ]


def test_gradient_of_a_replaced_input() -> None:
    """Autograd sees the change of an input, equal to a bare torch hook's."""
    x = torch.ones(2, requires_grad=True)
    inner, _ = hooked(_Applies(lambda t: t * 3))

    inner(x=x).sum().backward()

    assert x.grad is not None
    assert x.grad.tolist() == [3, 3]


VALUES = st.sampled_from(["none", "tensor", "list", "tuple", "dict"])


@pytest.mark.filterwarnings("ignore:.*was called without a tensor")
@given(
    st.lists(VALUES, max_size=2),
    st.lists(st.sampled_from(["mask", "scale"]), unique=True, max_size=2),
    VALUES,
)
def test_any_call(positional: list[str], names: list[str], kind: str) -> None:
    """Whatever a call passes how, the first tensor in order of parameters is replaced, once."""

    def value(kind: str) -> Any:
        tensor = torch.ones(2)
        made: dict[str, Any] = {
            "none": None,
            "tensor": tensor,
            "list": [tensor, ONE],
            "tuple": (tensor,),
            "dict": {"a": tensor},
        }
        return made[kind]

    args = tuple(value(kind) for kind in positional)
    kwargs = {name: value(kind) for name in names if not (name == "mask" and len(args) > 1)}
    control = _Applies(lambda x: None if x is None else x + 100)
    inner, _ = hooked(control)
    plain = _Takes()

    out, expected = inner(*args, **kwargs), plain(*args, **kwargs)

    changed = 0 if control.given[0][0] is None else 100
    assert torch.equal(out, expected + changed)


class _Joins(nn.Module):
    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:
        return x * 2


class _Writes(Detector):
    """Writes to one of what it is given."""

    def __init__(self, pick: Callable[[Any, Any], Tensor], hook_type: str = "forward") -> None:
        super().__init__(hook_type=hook_type)
        self.pick = pick

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.pick(input, output).zero_()


class _WritesToInput(Controller):
    def modify_activations(self, module: nn.Module, inputs: Any, output: Any) -> None:
        inputs.zero_()


CALLS: dict[str, tuple[Callable[..., Any], Callable[[Any, Any], Tensor]]] = {
    "the only input": (lambda f, x, y: f(x), lambda given, _: given[0]),
    "the second": (lambda f, x, y: f(x, y), lambda given, _: given[1]),
    "by name": (lambda f, x, y: f(x, mask=y), lambda given, _: given[1]),
    "in a list": (lambda f, x, y: f(x, [None, y]), lambda given, _: given[1][1]),
    "in a mapping": (lambda f, x, y: f(x, also={"mask": y}), lambda given, _: given[1]["mask"]),
}


class TestWritesToInputs:
    """A hook that writes in place to any input of the module is found."""

    @pytest.mark.parametrize("hook_type", ["forward", "pre_forward"])
    @pytest.mark.parametrize("call", CALLS)
    def test_detector(self, call: str, hook_type: str) -> None:
        """Whichever tensor it is, by position or name, in a list or mapping."""
        run, pick = CALLS[call]
        model = tenterhook.attach(nn.ModuleDict({"inner": _Joins()}))
        model.layers.register_hook("inner", _Writes(pick, hook_type))
        with pytest.raises(HookError, match="The detector wrote to the activation in place"):
            run(model.module["inner"], torch.ones(2), torch.ones(2))  # type: ignore[index]

    @pytest.mark.parametrize("hook_type", ["forward", "pre_forward"])
    @pytest.mark.parametrize("call", CALLS)
    def test_controller(self, call: str, hook_type: str) -> None:
        """A controller, too, that leaves the output alone."""
        run, _ = CALLS[call]
        model = tenterhook.attach(nn.ModuleDict({"inner": _Joins()}))
        model.layers.register_hook("inner", _WritesToInput(hook_type))
        with pytest.raises(HookError, match="The controller wrote to the activation in place"):
            run(model.module["inner"], torch.ones(2), torch.ones(2))  # type: ignore[index]


class _Changes(Detector):
    """Changes what it is given, but no tensor in it."""

    def __init__(self, change: Any, hook_type: str) -> None:
        super().__init__(hook_type)
        self.change = change

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.change(input, output)


class _Lists(nn.Module):
    """Adds what it is given up, and returns that twice in a list."""

    def forward(self, all: list[Tensor], more: Tensor | None = None) -> list[Tensor]:
        total = torch.stack(all).sum(0) + (0 if more is None else more)
        return [total, total + 1]


class TestStructures:
    """A detector that changes the structures around tensors is found, or changes its own alone."""

    @pytest.mark.parametrize(
        ("hook_type", "change"),
        [
            ("pre_forward", lambda given, _: given[0].append(torch.ones(2))),
            ("pre_forward", lambda given, _: given[0].clear()),
            ("forward", lambda given, _: given[0].reverse()),
            ("forward", lambda _, output: output.pop()),
            ("forward", lambda _, output: output.__setitem__(1, None)),
        ],
        ids=["more inputs", "no inputs", "other inputs", "fewer outputs", "another output"],
    )
    def test_lists(self, hook_type: str, change: Any) -> None:
        """Whatever place in the list it is."""
        model = tenterhook.attach(_Lists())
        model.layers.register_hook(
            "input" if hook_type == "pre_forward" else "", _Changes(change, hook_type)
        )
        with pytest.raises(HookError, match="The detector wrote to the activation in place"):
            model([torch.ones(2), torch.zeros(2)])

    def test_mapping(self) -> None:
        """A key that goes is found, too, whatever it held."""

        class Maps(nn.Module):
            def forward(self, x: Tensor) -> dict[str, Any]:
                return {"value": x, "count": 2}

        model = tenterhook.attach(Maps())
        model.layers.register_hook("", _Changes(lambda _, output: output.pop("count"), "forward"))
        with pytest.raises(HookError, match="The detector wrote to the activation in place"):
            model(torch.ones(2))

    def test_keywords(self) -> None:
        """What it takes out of the keyword inputs, the model is given all the same."""
        model = tenterhook.attach(_Lists())
        hook = _Changes(lambda given, _: given.kwargs.pop("more"), "pre_forward")
        model.layers.register_hook("input", hook)
        assert model([torch.ones(2)], more=torch.ones(2))[0].tolist() == [2, 2]
