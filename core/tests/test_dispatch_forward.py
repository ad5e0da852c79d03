"""Detectors change nothing, controllers what a bare torch hook would, and others' tensors stay."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook.activations import activation_of, replace
from tenterhook.hooks import Controller, Detector, Hook, HookError, HookType, HookWarning


class _Sees(Detector):
    """Keeps copies of what it saw, and returns something."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.seen: list[Tensor] = []
        self.outputs: list[Any] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> Any:
        self.outputs.append(output)
        found = activation_of(output)
        if found is not None:
            self.seen.append(found.detach().clone())
        return torch.zeros(1)


class _Applies(Controller):
    """Applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor | None], **more: Any) -> None:
        super().__init__(**more)
        self.function = function
        self.given: list[tuple[Any, Any]] = []

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        self.given.append((inputs, output))
        tensor = inputs if output is None else output
        return None if tensor is None else self.function(tensor)


class _SeesAndApplies(_Sees, Controller):
    """Both."""

    def __init__(self, function: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()
        self.function = function

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else self.function(output)


class Pair(NamedTuple):
    """A named tuple."""

    name: str
    value: Tensor


@dataclass(frozen=True)
class Hidden:
    """A frozen output object."""

    last_hidden_state: Tensor
    rest: Any


class _Makes(nn.Module):
    """Returns its linear's result in a structure."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.linear(x))


class _ReturnsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class _ReturnsParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, -0.5]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight


class _Adds(nn.Module):
    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.one(x) + self.other(x)
        return out


OBJECT = object()
MAKES: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda t: t,
    "tuple": lambda t: (None, t, t * 3, OBJECT),
    "list": lambda t: [t, OBJECT],
    "named-tuple": lambda t: Pair("x", t),
    "dict": lambda t: {"rest": OBJECT, "value": t},
    "dataclass": lambda t: Hidden(t, OBJECT),
}


def shared() -> nn.Module:
    """Return a module in which one layer is called twice."""
    linear = nn.Linear(2, 2)
    return nn.Sequential(linear, nn.ReLU(), linear)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
    "in-place-after": lambda: nn.Sequential(
        nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2)
    ),
    "called-twice": shared,
    "returns-input": lambda: _Adds(_ReturnsInput(), nn.Linear(2, 2)),
    "returns-parameter": lambda: _Adds(nn.Linear(2, 2), _ReturnsParameter()),
    "dropout": lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 2)).eval(),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the same module each time."""
    torch.manual_seed(0)
    return make()


def run(module: nn.Module) -> list[Tensor]:
    """Return output and gradients of one call."""
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    module.zero_grad()
    out = activation_of(module(x))
    assert out is not None
    if out.requires_grad:
        (out**2).sum().backward()  # type: ignore[no-untyped-call]
    return [out, *(t.grad for t in (x, *module.parameters()) if t.grad is not None)]


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Whether tensors are equal to the bit."""
    return len(ones) == len(others) and all(
        torch.equal(one, other) for one, other in zip(ones, others, strict=True)
    )


class TestDetectors:
    @pytest.mark.parametrize("kind", HookType)
    @pytest.mark.parametrize("name", MODELS)
    def test_change_nothing(self, name: str, kind: HookType) -> None:
        """Output and gradients are the same to the bit, with a detector on every layer."""
        expected = run(seeded(MODELS[name]))
        module = seeded(MODELS[name])
        model = tenterhook.attach(module)
        for layer in [*model.layers.list_layers(), ""]:
            model.layers.register_hook(layer, _Sees(hook_type=kind))

        assert same(run(module), expected)

    @pytest.mark.parametrize("make", MAKES)
    def test_return_value_is_ignored(self, make: str) -> None:
        """What a detector returns goes nowhere, and it sees the very object that was returned."""
        module = seeded(lambda: _Makes(MAKES[make]))
        hook = _Sees()
        tenterhook.attach(module).layers.register_hook("output", hook)

        out = module(torch.ones(1, 2))

        assert hook.outputs[0] is out

    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
    def test_writing_is_an_error(self, kind: str, mode: Any) -> None:
        """A detector that writes to the activation is found, and told what to do."""

        class Writes(Detector):
            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                (input[0] if output is None else output).mul_(0)

        module = nn.Sequential(nn.Identity())
        tenterhook.attach(module).layers.register_hook(0, Writes(kind))

        with mode(), pytest.raises(HookError, match="The detector wrote to the activation in"):
            module(torch.ones(2))

    @pytest.mark.parametrize("make", ["list", "dict"])
    def test_exchanging_is_an_error(self, make: str) -> None:
        """A detector that puts another tensor into a list or dictionary is found as well."""

        class Exchanges(Detector):
            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                output[0 if isinstance(output, list) else "value"] = torch.zeros(1)

        module = _Makes(MAKES[make])
        tenterhook.attach(module).layers.register_hook("output", Exchanges())

        with pytest.raises(HookError, match="The detector wrote to the activation"):
            module(torch.ones(1, 2))

    def test_see_each_call(self) -> None:
        """A module that is called twice is seen twice, in order."""
        module, hook = seeded(shared), _Sees()
        model = tenterhook.attach(module)
        model.layers.register_hook("2", hook)
        module.register_forward_hook(lambda *_: None)

        out = module(torch.ones(1, 2))

        assert hook.layer_signature == "0"
        assert len(hook.seen) == 2
        assert torch.equal(hook.seen[1], out)

    def test_before_an_in_place_layer(self) -> None:
        """What a detector copied is what its layer returned, before the next wrote over it."""
        module, hook = seeded(MODELS["in-place-after"]), _Sees()
        x = torch.tensor([[1.0, -2.0]])
        expected = module.get_submodule("0")(x)
        tenterhook.attach(module).layers.register_hook("0", hook)

        module(x)

        assert torch.equal(hook.seen[0], expected)


class TestControllers:
    @pytest.mark.parametrize("make", MAKES)
    def test_other_fields_stay(self, make: str) -> None:
        """The structure keeps its type, its other fields are the same objects."""
        module = seeded(lambda: _Makes(MAKES[make]))
        model = tenterhook.attach(module)
        outputs: list[Any] = []
        handle = module.register_forward_hook(lambda m, a, out: outputs.append(out))
        module(torch.ones(1, 2))
        handle.remove()
        module.register_forward_hook(lambda m, a, out: outputs.append(out))
        new = torch.zeros(4, 1, dtype=torch.int8)
        model.layers.register_hook("output", _Applies(lambda t: new))

        out = module(torch.ones(1, 2))

        plain, before = outputs
        assert type(out) is type(plain)
        assert activation_of(out) is new
        expected = replace(before, new)
        if isinstance(out, tuple | list):
            assert all(one is other for one, other in zip(out, expected, strict=True))
        elif isinstance(out, dict):
            assert list(out) == list(expected)
            assert out["rest"] is OBJECT
        elif isinstance(out, Hidden):
            assert out.rest is OBJECT
        assert activation_of(before) is not new

    @pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
    def test_dtypes_and_modes(self, dtype: torch.dtype, mode: Any) -> None:
        """Every dtype passes in every mode, and what the function makes of it."""
        module = nn.Sequential(nn.Identity())
        hook = _Applies(lambda t: (t + 1)[..., None])
        tenterhook.attach(module).layers.register_hook(0, hook)

        with mode():
            out = module(torch.ones(3, dtype=dtype))

        assert (out.dtype, out.tolist()) == (dtype, [[2], [2], [2]])

    @pytest.mark.parametrize("shape", [(0, 2), (1, 2)], ids=str)
    def test_empty_batch(self, shape: tuple[int, ...]) -> None:
        """A batch of nothing passes."""
        module, sees = nn.Sequential(nn.Linear(2, 2)), _Sees()
        model = tenterhook.attach(module)
        model.layers.register_hook(0, _SeesAndApplies(lambda t: t * 2))
        model.layers.register_hook("output", sees)

        assert module(torch.ones(shape)).shape == shape
        assert sees.seen[0].shape == shape

    def test_meta_tensors(self) -> None:
        """Hooks run on tensors without data."""
        module = nn.Sequential(nn.Linear(2, 2, device="meta"))
        model = tenterhook.attach(module)
        model.layers.register_hook(0, _SeesAndApplies(lambda t: t[..., :1]))

        assert module(torch.ones(3, 2, device="meta")).shape == (3, 1)

    def test_is_given_both(self) -> None:
        """A controller is given the first tensor of the inputs and the activation."""
        module, hook = _Makes(MAKES["tuple"]), _Applies(lambda t: None)
        tenterhook.attach(module).layers.register_hook("output", hook)
        x = torch.ones(1, 2)

        out = module(x)

        assert hook.given[0][0] is x
        assert hook.given[0][1] is out[1]

    def test_none_leaves_it_alone(self) -> None:
        """A controller that returns `None` changes nothing, not even the object."""
        module = _Makes(MAKES["list"])
        kept: list[Any] = []
        module.register_forward_hook(lambda m, a, out: kept.append(out))
        tenterhook.attach(module).layers.register_hook("output", _Applies(lambda t: None))

        assert module(torch.ones(1, 2)) is kept[0]

    def test_parameter_stays(self) -> None:
        """A module that returns its parameter keeps it, and its gradient is right."""
        module = seeded(MODELS["returns-parameter"])
        weight = module.get_parameter("other.weight")
        before = weight.detach().clone()
        tenterhook.attach(module).layers.register_hook("other", _Applies(lambda t: t * 10))

        module(torch.zeros(1, 2)).sum().backward()

        assert torch.equal(weight, before)
        assert weight.grad is not None
        assert weight.grad.tolist() == [[10, 10]]

    def test_input_stays(self) -> None:
        """A module that returns its input does not change it for others who hold it."""
        module = seeded(MODELS["returns-input"])
        tenterhook.attach(module).layers.register_hook("one", _Applies(lambda t: t * 10))
        x = torch.ones(1, 2)

        out = module(x)

        assert x.tolist() == [[1, 1]]
        assert torch.equal(out, 10 * x + module.get_submodule("other")(x))

    def test_writing_is_an_error(self) -> None:
        """A controller that writes to what it is given is found."""
        module = nn.Sequential(nn.Linear(2, 2))
        tenterhook.attach(module).layers.register_hook(0, _Applies(lambda t: t.mul_(2)))

        with torch.no_grad(), pytest.raises(HookError, match="The controller wrote to"):
            module(torch.ones(1, 2))

    @pytest.mark.parametrize("result", [3.0, "text", (torch.ones(1),)], ids=repr)
    def test_anything_else_is_an_error(self, result: Any) -> None:
        """A controller returns a tensor or nothing."""
        module = nn.Sequential(nn.Linear(2, 2))
        tenterhook.attach(module).layers.register_hook(0, _Applies(lambda t: result))

        with pytest.raises(HookError, match=f"It returned {type(result).__name__}; return a tens"):
            module(torch.ones(1, 2))

    def test_nothing_to_change(self) -> None:
        """Where a layer returns no tensor, a warning says so."""
        module = _Makes(lambda t: "text")
        tenterhook.attach(module).layers.register_hook("output", _Applies(torch.neg))

        told = r"Layer 'output': .* changed nothing, for the layer returned str, which holds no"
        with pytest.warns(HookWarning, match=told):
            assert module(torch.ones(1, 2)) == "text"

    def test_in_order(self) -> None:
        """Each controller is given what the one before it made."""
        module = nn.Sequential(nn.Identity())
        model = tenterhook.attach(module)
        for function in (lambda t: t + 1, lambda t: t * 10, lambda t: t - 3):
            model.layers.register_hook(0, _Applies(function))

        assert module(torch.ones(1)).item() == 17


def test_both_detects_first() -> None:
    """A hook that is both sees the unmodified activation; the next sees what it made."""
    module, both, after = nn.Sequential(nn.Identity()), _SeesAndApplies(lambda t: t + 1), _Sees()
    model = tenterhook.attach(module)
    model.layers.register_hook(0, both)
    model.layers.register_hook(0, after)

    assert module(torch.zeros(1)).item() == 1
    assert both.seen[0].item() == 0
    assert after.seen[0].item() == 1


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "double": lambda t: t * 2,
    "shift": lambda t: t + 1,
    "clone": lambda t: t.clone(),
    "same": lambda t: t,
    "detach": lambda t: t.detach() * 1,
    "flip": lambda t: t.flip(-1),
}
STEPS = st.tuples(
    st.sampled_from(["detect", "control", "both", "off", "scope", "steer"]),
    st.integers(0, 2),
    st.sampled_from(sorted(FUNCTIONS)),
)


@settings(max_examples=80)
@given(st.sampled_from(sorted(MODELS)), st.lists(STEPS, max_size=6))
def test_stacks_equal_bare_torch_hooks(name: str, steps: list[tuple[str, int, str]]) -> None:
    """Any stack of ours gives output and gradients of bare torch hooks, to the bit."""
    bare, module = seeded(MODELS[name]), seeded(MODELS[name])
    model = tenterhook.attach(module)
    scopes, late = [], []
    for kind, at, function in steps:
        layers = model.layers.list_layers()
        layer, apply = layers[at % len(layers)], FUNCTIONS[function]
        if kind in ("control", "both"):
            bare.get_submodule(layer).register_forward_hook(lambda m, a, out, f=apply: f(out))
        elif kind == "steer":
            late.append((layer, apply))
        if kind == "scope":
            scopes.append(model.capture(layer, missing="ignore"))
        elif kind == "steer":
            scopes.append(model.steer(layer, apply))  # type: ignore[arg-type]
        else:
            hook: Hook = _Sees() if kind == "detect" else _Applies(apply)
            if kind == "both":
                hook = _SeesAndApplies(apply)
            if kind == "off":
                hook.disable()
            model.layers.register_hook(layer, hook, mix="in_order")
    for layer, apply in late:  # scopes run after what is registered
        bare.get_submodule(layer).register_forward_hook(lambda m, a, out, f=apply: f(out))

    for scope in scopes:
        scope.__enter__()
    found = run(module)
    for scope in reversed(scopes):
        scope.__exit__(None, None, None)

    assert same(found, run(bare))
    model.layers.clear()
    tenterhook.assert_clean(module)


class _Sae(Controller, Detector, nn.Module):
    """A hook of both kinds that is a module too, its bases set up one by one."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        Controller.__init__(self, HookType.FORWARD, "sae")
        Detector.__init__(self, HookType.FORWARD, "sae")
        self.encode = nn.Linear(2, 4, bias=False)

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.tensor_metadata["latents"] = self.encode(output).detach()

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else self.encode(output) @ self.encode.weight


def test_a_module_as_a_hook() -> None:
    """A hook that is a module keeps its weights its own, and learns."""
    module, hook = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), _Sae()
    model = tenterhook.attach(module)
    model.layers.register_hook(0, hook)

    module(torch.ones(1, 2)).sum().backward()

    assert list(hook.state_dict()) == ["encode.weight"]
    assert list(module.state_dict()) == ["0.weight", "0.bias"]
    assert hook.encode.weight.grad is not None
    assert hook.tensor_metadata["latents"].shape == (1, 4)
    twin = copy.deepcopy(hook)
    assert twin.context is None
    assert torch.equal(twin.encode.weight, hook.encode.weight)


def test_switched_while_the_model_runs() -> None:
    """Hooks are switched, registered and removed by one thread while others run the model."""
    module = nn.Sequential(*(nn.Identity() for _ in range(4)))
    model = tenterhook.attach(module)
    for at in range(4):
        model.layers.register_hook(at, _Applies(lambda t: t + 1, hook_id=str(at)))
    stop, wrong, failures = threading.Event(), [], []

    def work() -> None:
        try:
            while not stop.is_set():
                if module(torch.zeros(1)).item() not in range(6):
                    wrong.append(1)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(300):
        model.layers.disable_hook(str(turn % 4))
        extra = model.layers.register_hook(turn % 4, _Applies(lambda t: t + 1))
        model.layers.enable_hook(str(turn % 4))
        model.layers.unregister_hook(extra)
    stop.set()
    for thread in threads:
        thread.join()

    assert (wrong, failures) == ([], [])
    assert module(torch.zeros(1)).item() == 4


def test_a_hook_that_takes_itself_off() -> None:
    """A hook may unregister or disable itself, and others, while it runs."""
    module = nn.Sequential(nn.Identity())
    model = tenterhook.attach(module)

    class Once(_Sees):
        def process_activations(self, module: nn.Module, input: Any, output: Any) -> Any:
            super().process_activations(module, input, output)
            model.layers.unregister_hook(self)

    once, after = Once(), _Sees()
    model.layers.register_hook(0, once)
    model.layers.register_hook(0, after)

    module(torch.ones(1))
    module(torch.ones(1))

    assert (len(once.seen), len(after.seen)) == (1, 2)
