"""Hooks on gradients: in order, after what forward hooks did, and gone when they are off."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Controller, Detector, HookError


class _Sees(Detector):
    """Keeps the gradients that it saw."""

    def __init__(self) -> None:
        super().__init__("backward")
        self.calls: list[tuple[Any, Any]] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> Any:
        self.calls.append((input, output))
        return torch.zeros(1)

    @property
    def seen(self) -> list[Any]:
        return [output.tolist() for _, output in self.calls]


class _Applies(Controller):
    """Applies a function to the gradient, or to the activation."""

    def __init__(self, function: Callable[[Tensor], Any], hook_type: str = "backward") -> None:
        super().__init__(hook_type)
        self.function = function
        self.given: list[tuple[Any, Any]] = []

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        self.given.append((inputs, output))
        result: Tensor | None = self.function(output)  # type: ignore[arg-type]
        return result


class _Both(_Sees, Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output * 2


class _View(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:1]


class _Chunks(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.chunk(2)


class _Twice(nn.Module):
    """Returns its input, which is used beside it as well."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) * 3 + x * 10
        return out


class _Parameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight


def hooked(module: nn.Module, *hooks: Any, layer: Any = 0) -> nn.Module:
    """Register the hooks on one layer of a module."""
    model = tenterhook.attach(module)
    for hook in hooks:
        model.layers.register_hook(layer, hook, mix="in_order")
    module.keep = [model]  # type: ignore[assignment]
    return module


def leaf(*values: float) -> Tensor:
    """Return a tensor that wants a gradient."""
    return torch.tensor(values or (1.0, 2.0), requires_grad=True)


def gradient(x: Tensor) -> list[float]:
    """Return the gradient as numbers."""
    assert x.grad is not None
    found: list[float] = x.grad.tolist()
    return found


class TestDetector:
    def test_sees_the_gradient(self) -> None:
        """It is given the gradient with respect to the output, once per backward pass."""
        hook, x = _Sees(), leaf()
        module = hooked(nn.Sequential(nn.Identity(), nn.Identity()), hook)

        (module(x) * 5).sum().backward()

        assert hook.seen == [[5, 5]]
        assert hook.calls[0][0][0] is hook.calls[0][1]
        assert gradient(x) == [5, 5]

    def test_sees_the_sum(self) -> None:
        """Where an output is used twice, the gradients of both uses come as one."""
        hook, x = _Sees(), leaf()
        module = hooked(nn.Sequential(nn.Identity()), hook)

        out = module(x)
        (out * 2 + out * 3).sum().backward()

        assert hook.seen == [[5, 5]]

    def test_each_call_apart(self) -> None:
        """Each call of a shared module has a gradient of its own, the last call's first."""
        shared, hook, x = nn.Identity(), _Sees(), leaf()
        module = hooked(nn.Sequential(shared, nn.Hardtanh(-1.5, 1.5), shared), hook)

        (module(x) * 2).sum().backward()

        assert hook.seen == [[2, 2], [2, 0]]

    def test_retained_graph(self) -> None:
        """It runs at each backward pass through one graph."""
        hook, x = _Sees(), leaf()
        out = hooked(nn.Sequential(nn.Identity()), hook)(x).sum()

        out.backward(retain_graph=True)
        out.backward()

        assert hook.seen == [[1, 1], [1, 1]]

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, mode: Any) -> None:
        """Where nothing is differentiated, nothing runs and nothing changes."""
        hook, x = _Sees(), torch.ones(2)
        kept: list[Tensor] = []
        module = nn.Sequential(nn.Identity())
        module[0].register_forward_hook(lambda m, a, out: kept.append(out))
        hooked(module, hook)

        with mode():
            out = module(x)

        assert out is kept[0]
        assert hook.seen == []

    def test_writing_is_an_error(self) -> None:
        """A detector that writes to the gradient is found."""

        class Writes(Detector):
            def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
                output.zero_()

        module = hooked(nn.Sequential(nn.Linear(2, 2)), Writes("backward"))
        with pytest.raises(HookError, match="The detector wrote to the activation"):
            module(torch.ones(1, 2)).sum().backward()


class TestController:
    def test_in_order(self) -> None:
        """Each is given what the one before it returned."""
        first, second, sees, x = (
            _Applies(lambda g: g * 2),
            _Applies(lambda g: g + 1),
            _Sees(),
            leaf(),
        )
        module = hooked(nn.Sequential(nn.Identity()), first, second, sees)

        module(x).sum().backward()

        assert gradient(x) == [3, 3]
        assert sees.seen == [[3, 3]]
        assert first.given[0][0] is first.given[0][1]

    def test_hook_that_is_both(self) -> None:
        """It sees the gradient as it came, then changes it."""
        hook, x = _Both(), leaf()
        hooked(nn.Sequential(nn.Identity()), hook)(x).sum().backward()

        assert hook.seen == [[1, 1]]
        assert gradient(x) == [2, 2]

    @pytest.mark.parametrize("first", ["forward", "backward"])
    def test_with_a_forward_controller(self, first: str) -> None:
        """The gradient is that of what the forward controllers made, and passes through them."""
        back, forth, x = _Applies(lambda g: g + 1), _Applies(lambda t: t * 10, "forward"), leaf()
        hooks = [forth, back] if first == "forward" else [back, forth]
        module = hooked(nn.Sequential(nn.Identity()), *hooks)

        module(x).sum().backward()

        assert back.given[0][0].tolist() == [1, 1]
        assert gradient(x) == [20, 20]

    def test_with_an_input_controller(self) -> None:
        """A controller before the module comes after it in the backward pass."""

        class Before(_Applies):
            def modify_activations(
                self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
            ) -> Tensor | None:
                return super().modify_activations(module, output, inputs)

        back, before, x = _Applies(lambda g: g + 1), Before(lambda t: t * 10, "pre_forward"), leaf()
        module = hooked(nn.Sequential(nn.Identity()), before, back)

        module(x).sum().backward()

        assert gradient(x) == [20, 20]

    def test_none_leaves_it_alone(self) -> None:
        """`None` keeps the gradient."""
        x = leaf()
        hooked(nn.Sequential(nn.Identity()), _Applies(lambda g: None))(x).sum().backward()
        assert gradient(x) == [1, 1]

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            (lambda g: g[:1], r"a gradient of shape \(1,\).* where autograd needs \(2,\)"),
            (lambda g: g.double(), r"torch.float64.* where autograd needs .*torch.float32"),
            (lambda g: g.to("meta"), r"on meta, where autograd needs .*on cpu"),
            (lambda g: 3, r"It returned int; return a gradient"),
            (lambda g: (g,), r"It returned tuple; return a gradient"),
            (lambda g: g.mul_(2), r"The controller wrote to the activation"),
        ],
        ids=["shape", "dtype", "device", "number", "tuple", "in-place"],
    )
    def test_refused(self, result: Any, said: str) -> None:
        """What is no gradient for the place is a `HookError` that says what fits."""
        hook = _Applies(result)
        out = (hooked(nn.Sequential(nn.Identity()), hook)(leaf() * 1) ** 2).sum()

        with pytest.raises(HookError, match=said) as caught:
            out.backward()
        assert caught.value.hook_id == hook.id

    def test_raising(self) -> None:
        """What it raises surfaces from `backward()` as `HookError`, from the original."""
        hook = _Applies(lambda g: dict[str, int]()["gone"])
        module, x = hooked(nn.Sequential(nn.Identity()), hook), leaf()

        with pytest.raises(HookError, match=r"'0': _Applies .*\(backward\).*KeyError: 'gone'") as e:
            module(x).sum().backward()
        assert isinstance(e.value.__cause__, KeyError)
        hook.function = lambda g: g * 4
        module(x).sum().backward()
        assert gradient(x) == [4, 4]


class TestPlaces:
    """Outputs that share their node in the graph with something else."""

    def test_returned_input(self) -> None:
        """Only the gradient through the module is seen, not that of the input's other uses."""
        sees, double, x = _Sees(), _Applies(lambda g: g * 2), leaf()
        module = hooked(_Twice(nn.Identity()), sees, double, layer="inner")

        module(x * 1).sum().backward()

        assert sees.seen == [[3, 3]]
        assert gradient(x) == [16, 16]

    def test_returned_parameter(self) -> None:
        """A parameter that is returned gets the changed gradient, and keeps its value."""
        inner, x = _Parameter(), leaf()
        module = hooked(_Twice(inner), _Applies(lambda g: g * 2), layer="inner")

        module(x).sum().backward()

        assert inner.weight.grad is not None
        assert inner.weight.grad.tolist() == [6, 6]
        assert inner.weight.tolist() == [1, 1]

    @pytest.mark.parametrize("inner", [_View(), _Chunks()], ids=["slice", "chunk"])
    def test_view(self, inner: nn.Module) -> None:
        """A view of the input is seen and changed as itself."""
        sees, double, x = _Sees(), _Applies(lambda g: g * 2), leaf(1.0, 2.0)
        module = hooked(nn.Sequential(inner), sees, double)

        out = module(x * 1)
        (out if isinstance(out, Tensor) else out[0]).sum().backward()

        assert sees.seen == [[1]]
        assert gradient(x) == [2, 0]

    @pytest.mark.parametrize("inner", [nn.Linear(2, 2), _View(), nn.Flatten(0)], ids=repr)
    def test_before_an_in_place_module(self, inner: nn.Module) -> None:
        """The gradient is that of the layer's own output, though the next writes over it."""
        x = torch.tensor([[1.0, -2.0], [3.0, 4.0]], requires_grad=True)
        out = inner(x * 1).detach()
        sees, double = _Sees(), _Applies(lambda g: g * 2)
        module = hooked(nn.Sequential(inner, nn.ReLU(inplace=True)), sees, double)

        module(x * 1).sum().backward()

        assert sees.seen == [(out > 0).float().tolist()]

    def test_on_an_in_place_module(self) -> None:
        """The gradient with respect to an in-place module's output is seen."""
        sees, double, x = _Sees(), _Applies(lambda g: g * 2), leaf(1.0, -2.0)
        module = hooked(nn.Sequential(nn.ReLU(inplace=True)), sees, double)

        (module(x * 1) * 3).sum().backward()

        assert sees.seen == [[3, 3]]
        assert gradient(x) == [6, 0]

    @pytest.mark.parametrize("inner", [nn.Identity(), nn.Flatten(0), _View()], ids=repr)
    def test_written_to_later(self, inner: nn.Module) -> None:
        """What a later module writes in place is seen by all that it would be seen by."""

        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.relu = inner, nn.ReLU(inplace=True)

            def forward(self, x: Tensor) -> Tensor:
                h = x * 1
                self.relu(self.inner(h))
                return h * 2

        plain = Residual()(leaf(1.0, -2.0))
        out = hooked(Residual(), _Sees(), layer="inner")(leaf(1.0, -2.0))
        assert torch.equal(out, plain)

    def test_twice_and_transformed(self) -> None:
        """Second gradients, and those of `torch.func`, go through a returned input."""
        module = hooked(nn.Sequential(nn.Identity()), _Applies(lambda g: g * 2))
        x = leaf(1.0, 2.0)

        (once,) = torch.autograd.grad(module(x**3).sum(), x, create_graph=True)
        torch.autograd.backward(once.sum())
        batched = torch.func.vmap(torch.func.grad(lambda t: module(t**2).sum()))(torch.ones(3, 2))

        assert gradient(x) == [12, 24]
        assert batched.tolist() == [[4, 4]] * 3

    def test_structure(self) -> None:
        """In a tuple the activation is the first tensor, the others keep their gradients."""

        class Two(nn.Module):
            def forward(self, x: Tensor) -> Any:
                return None, x * 1, x * 1

        sees, x = _Sees(), leaf()
        module = hooked(nn.Sequential(Two()), sees, _Applies(lambda g: g * 2))

        _, one, other = module(x)
        (one + other * 10).sum().backward()

        assert sees.seen == [[1, 1]]
        assert gradient(x) == [12, 12]

    def test_nothing_to_differentiate(self) -> None:
        """An output of whole numbers passes."""
        sees = _Sees()
        module = hooked(nn.Sequential(nn.Identity()), sees)

        assert module(torch.ones(2, dtype=torch.int64)).tolist() == [1, 1]
        assert sees.seen == []


class TestGone:
    """A hook that is off does not run in a later `backward()` either."""

    @pytest.mark.parametrize("how", ["unregistered", "disabled", "cleared"])
    @pytest.mark.parametrize("kind", [_Sees, _Both])
    def test_registered(self, how: str, kind: Any) -> None:
        """Unregistered or disabled between forward and backward."""
        hook, x = kind(), leaf()
        module = nn.Sequential(nn.Identity())
        model = tenterhook.attach(module)
        model.layers.register_hook(0, hook)
        out = module(x).sum()

        if how == "unregistered":
            model.layers.unregister_hook(hook)
        elif how == "cleared":
            model.layers.clear()
        else:
            hook.disable()
        out.backward()

        assert hook.seen == []
        assert gradient(x) == [1, 1]

    @pytest.mark.parametrize("muted", [False, True], ids=["heard", "muted"])
    @pytest.mark.parametrize("kind", [_Sees, _Both])
    def test_scope_closed(self, kind: Any, muted: bool) -> None:
        """The scope ended between forward and backward."""
        hook, x = kind(), leaf()
        model = tenterhook.attach(nn.Sequential(nn.Identity()))

        with model.hooks((0, hook), missing="ignore"):
            if muted:
                with model.without_controllers():
                    out = model(x).sum()
            else:
                out = model(x).sum()
        out.backward()

        assert hook.seen == []
        assert gradient(x) == [1, 1]

    def test_muted_and_unregistered(self) -> None:
        """What is left of a hook while controllers are off goes with it."""
        hook, x = _Both(), leaf()
        model = tenterhook.attach(nn.Sequential(nn.Identity()))
        model.layers.register_hook(0, hook)
        with model.without_controllers():
            out = model(x).sum()

        model.layers.unregister_hook(hook)
        out.backward()

        assert hook.seen == []

    def test_in_a_scope(self) -> None:
        """Inside the scope it runs, muted without its controller."""
        hook, x = _Both(), leaf()
        model = tenterhook.attach(nn.Sequential(nn.Identity()))

        with model.hooks((0, hook)), model.without_controllers():
            model(x).sum().backward()

        assert hook.seen == [[1, 1]]
        assert gradient(x) == [1, 1]


def test_steer() -> None:
    """A function in a scope changes the gradient of what runs and is differentiated inside."""
    x = leaf()
    model = tenterhook.attach(nn.Sequential(nn.Identity()))

    with model.steer(0, lambda g: g * 7, hook_type="backward"):
        model(x).sum().backward()

    assert gradient(x) == [7, 7]


def test_trainable_vector_learns() -> None:
    """A parameter in a controller's function gets its gradient."""
    vector = nn.Parameter(torch.zeros(2))
    model = tenterhook.attach(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
    x, wanted = torch.ones(4, 2), torch.ones(4, 1)
    optimizer = torch.optim.SGD([vector], 0.1)

    losses = []
    with model.steer(0, lambda t: t + vector):
        for _ in range(20):
            optimizer.zero_grad()
            loss = ((model(x) - wanted) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    assert losses[-1] < losses[0]
    assert vector.detach().abs().sum() > 0


def test_other_threads_backward() -> None:
    """A registered hook runs where the backward pass does, whichever thread calls it."""
    hook, x = _Sees(), leaf()
    out = hooked(nn.Sequential(nn.Identity()), hook)(x).sum()

    thread = threading.Thread(target=out.backward)
    thread.start()
    thread.join()

    assert hook.seen == [[1, 1]]


GRADIENTS: dict[str, Callable[[Tensor], Any]] = {
    "double": lambda g: g * 2,
    "shift": lambda g: g + 1,
    "flip": lambda g: g.flip(-1),
    "keep": lambda g: None,
}
STEP = st.tuples(
    st.sampled_from(["back", "forth", "see"]), st.integers(0, 2), st.sampled_from(sorted(GRADIENTS))
)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=6))
def test_stacks_equal_bare_torch_hooks(steps: list[tuple[str, int, str]]) -> None:
    """Any stack gives the gradients of tensor hooks on the outputs of bare forward hooks."""

    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2))

    ours, bare = made(), made()
    for at in range(3):
        here = [(kind, GRADIENTS[name]) for kind, where, name in steps if where == at]
        forth = [f for kind, f in here if kind == "forth"]
        back = [f for kind, f in here if kind == "back"]

        def plain(
            module: nn.Module, args: Any, out: Tensor, forth: Any = forth, back: Any = back
        ) -> Tensor:
            for function in forth:
                new = function(out)
                out = out if new is None else new
            for function in back:
                out.register_hook(function)  # type: ignore[no-untyped-call]
            return out

        bare[at].register_forward_hook(plain)
        for kind, function in here:
            side = "backward" if kind == "back" else "forward"
            hooked(ours, _Sees() if kind == "see" else _Applies(function, side), layer=at)

    grads = []
    for module in (ours, bare):
        x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
        (module(x) ** 2).sum().backward()
        grads.append([x.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
