"""Hooks and scopes on compiled models: traced, late, leaving, or refused with a way out."""

import concurrent.futures
import dataclasses
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, HookError
from tenterhook.hooks import Controller, Detector, HookType

WIDTH = 4
X = torch.linspace(-1, 1, 2 * 3 * WIDTH).reshape(2, 3, WIDTH)

pytestmark = [  # of torch itself, which hides the first by other means than a filter
    pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script:DeprecationWarning"),
]

COMPILER = any(map(shutil.which, ("g++", "clang++", "c++", "cl")))
INDUCTOR = [
    pytest.mark.skipif(not COMPILER, reason="inductor needs a C++ compiler"),
]
# Half a minute each, so in the whole run alone; `TestBackward` has one for every run.
SLOW = [*INDUCTOR, pytest.mark.matrix(sample=0)]
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=SLOW)]


@dataclasses.dataclass
class Hidden:
    """An output with the activation in a field."""

    last_hidden_state: Tensor
    scale: float = 1.0


KINDS = ["tensor", "tuple", "list", "dict", "dataclass"]


class _Block(nn.Module):
    """Takes a keyword, returns a structure."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.line = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, *, plus: Tensor | None = None) -> Any:
        made = self.line(x) if plus is None else self.line(x) + plus
        match self.kind:
            case "tuple":
                return made, x
            case "list":
                return [made, x]
            case "dict":
                return {"hidden": made, "extra": x}
            case "dataclass":
                return Hidden(made)
        return made


def first_of(output: Any) -> Tensor:
    """Return the activation, by hand."""
    if isinstance(output, tuple | list):
        output = output[0]
    elif isinstance(output, dict):
        output = output["hidden"]
    elif isinstance(output, Hidden):
        output = output.last_hidden_state
    assert isinstance(output, Tensor)
    return output


class _Net(nn.Module):
    """Three blocks, the second of a kind."""

    def __init__(self, kind: str = "tensor") -> None:
        super().__init__()
        self.up, self.mid, self.down = _Block("tensor"), _Block(kind), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x, plus=x))
        out: Tensor = self.down(first_of(self.mid(hidden)))
        return out


class _Keeps(Detector):
    def __init__(self, hook_type: HookType | str = "forward") -> None:
        super().__init__(hook_type)

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        tensor = input[0] if self.hook_type is HookType.PRE_FORWARD else first_of(output)
        self.tensor_metadata["seen"] = tensor.detach().clone()


class _Applies(Controller):
    def __init__(
        self, function: Callable[[Tensor], Any], hook_type: HookType | str = "forward"
    ) -> None:
        super().__init__(hook_type)
        self.function = function

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Any:
        tensor = inputs if output is None else output
        assert tensor is not None
        return self.function(tensor)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Begin each test as a process that has compiled nothing and never met a hook."""
    from torch._dynamo import config

    torch._dynamo.reset()
    config.skip_nnmodule_hook_guards = True
    yield
    torch._dynamo.reset()


def made(kind: str = "tensor") -> _Net:
    """Return a net, the same every time."""
    torch.manual_seed(0)
    return _Net(kind)


def compiled_from(net: nn.Module, backend: str = "aot_eager", **settings: Any) -> Any:
    """Return the compiled net."""
    return torch.compile(net, backend=backend, **settings)


def close(one: Tensor, other: Tensor) -> bool:
    """Say whether two results are one, fused arithmetic aside."""
    return torch.allclose(one, other, atol=1e-5)


class TestRegistered:
    @pytest.mark.matrix(sample=1)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_traced_whole(self, backend: str) -> None:
        """Hooks that were there before compile to one graph, and do what they do uncompiled."""
        torch.manual_seed(0)
        net = nn.Sequential(*(_Net(kind) for kind in KINDS))
        plain = net(X)
        model = tenterhook.attach(net)
        keeps = [_Keeps() for _ in KINDS]
        before = _Keeps("pre_forward")
        for at, keep in enumerate(keeps):
            model.layers.register_hook(f"{at}.up", _Applies(lambda t: t * 2, "pre_forward"))
            model.layers.register_hook(f"{at}.mid", _Applies(lambda t: t + 1))
            model.layers.register_hook(f"{at}.mid", keep, mix="in_order")
        model.layers.register_hook("0.down", before)
        model.layers.register_hook("output", _Applies(torch.neg))
        expected = net(X)
        saw = [hook.tensor_metadata.pop("seen") for hook in (*keeps, before)]

        out = compiled_from(net, backend, fullgraph=True)(X)

        assert close(out, expected)
        for hook, tensor in zip((*keeps, before), saw, strict=True):
            assert close(hook.tensor_metadata["seen"], tensor)
        assert not close(expected, plain)

    @pytest.mark.matrix(sample=1)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_come_and_go_after_the_first_call(self, backend: str) -> None:
        """What is registered, switched or removed after compiling takes effect at the next call."""
        net = made()
        plain = net(X).detach()
        compiled = compiled_from(net, backend, fullgraph=True)
        assert close(compiled(X), plain)

        model = tenterhook.attach(net)
        first, second, keeps = _Applies(lambda t: t * 2), _Applies(lambda t: t - 1), _Keeps()
        model.layers.register_hook("down", first)
        assert close(compiled(X), plain * 2)
        model.layers.register_hook("down", second)
        assert close(compiled(X), plain * 2 - 1)
        first.disable()
        assert close(compiled(X), plain - 1)
        first.enable()
        assert close(compiled(X), plain * 2 - 1)
        model.layers.unregister_hook(second)
        assert close(compiled(X), plain * 2)
        model.layers.clear()
        assert close(compiled(X), plain)
        model.layers.register_hook("output", keeps)
        assert close(compiled(X), plain)
        assert close(keeps.tensor_metadata["seen"], plain)

    def test_classes_that_come_later(self) -> None:
        """A hook on a module of another class has nothing compiled anew that was there before."""
        net, other = made(), nn.Sequential(nn.LayerNorm(WIDTH), nn.Tanh())
        model, others = tenterhook.attach(net), tenterhook.attach(other)
        for layer in ("up", "mid"):
            model.layers.register_hook(layer, _Applies(lambda t: t * 2))
        for layer in ("0", "1"):
            others.layers.register_hook(layer, _Applies(lambda t: t + 1))
        compiled = compiled_from(net, "eager", fullgraph=True)
        before = compiled(X)
        with torch._dynamo.config.patch(error_on_recompile=True):
            net(X)
            other(X)
            assert close(compiled(X), before)

    @pytest.mark.matrix(sample=1)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_gradients(self, backend: str) -> None:
        """Gradients flow through a traced controller, into its own parameter too."""
        net = made()
        vector = nn.Parameter(torch.ones(WIDTH))
        model = tenterhook.attach(net)
        model.layers.register_hook("mid", _Applies(lambda t: t * vector))
        grads = []
        for run in (net, compiled_from(net, backend, fullgraph=True)):
            net.zero_grad()
            vector.grad = None
            (run(X) ** 2).sum().backward()
            grads.append([vector.grad, *(p.grad for p in net.parameters())])
        for one, other in zip(*grads, strict=True):
            assert one is not None
            assert other is not None
            assert torch.allclose(one, other, atol=1e-4)

    def test_switching_compiles_twice_alone(self) -> None:
        """Graphs of before are used again: switching a hook over and over compiles no more."""
        graphs: list[Any] = []

        def counts(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        net = made()
        model, hook = tenterhook.attach(net), _Applies(lambda t: t * 2)
        model.layers.register_hook("down", hook)
        compiled = torch.compile(net, backend=counts, fullgraph=True)
        for turn in range(20):
            (hook.enable if turn % 2 else hook.disable)()
            compiled(X)
        assert len(graphs) == 2

    def test_error(self) -> None:
        """What a hook raises surfaces as from the model itself, and leaves it usable."""

        def fails(t: Tensor) -> Tensor:
            raise KeyError("mine")

        net = made()
        model = tenterhook.attach(net)
        plain, compiled = net(X), compiled_from(net)
        hook = _Applies(fails)
        model.layers.register_hook("down", hook)
        with pytest.raises(HookError, match="mine") as caught:
            compiled(X)
        assert caught.value.hook_id == hook.id
        model.layers.clear()
        assert close(compiled(X), plain)

    @pytest.mark.matrix(sample=1)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_compiled_in_place(self, backend: str) -> None:
        """`module.compile()` serves hooks on the module, in it, before and after, and scopes."""
        net, same = made(), made()
        model = tenterhook.attach(net)
        model.layers.register_hook("down", _Applies(lambda t: t * 2))
        net.compile(backend=backend)
        assert close(model(X), same(X) * 2)
        keeps = _Keeps()
        model.layers.register_hook("output", _Applies(torch.neg))
        model.layers.register_hook("output", keeps, mix="in_order")
        assert close(model(X), same(X) * -2)
        assert close(keeps.tensor_metadata["seen"], same(X) * -2)
        with model.capture("down", "output") as captured, model.steer("up", lambda t: t * 0):
            out = model(X)
        assert close(captured.last("output"), out)
        assert close(captured.last("down"), -out)
        assert not close(out, same(X) * -2)
        assert close(model(X), same(X) * -2)

    def test_blocks_compiled_alone(self) -> None:
        """Where each block is compiled in place, hooks on blocks and inside them work."""
        net, same = made(), made()
        for block in (net.up, net.mid):
            block.compile(backend="aot_eager")
        model = tenterhook.attach(net)
        with model.capture("up", "up.line") as captured:
            model(X)
        assert close(captured.last("up"), same.up(X, plus=X))
        assert close(captured.last("up.line"), same.up.line(X))
        model.layers.register_hook("up.line", _Applies(lambda t: t * 0))
        model.layers.register_hook("mid", _Applies(lambda t: t * 2))
        expected = same.down(same.mid(torch.relu(X)) * 2)
        assert close(model(X), expected)

    def test_compiled_within(self) -> None:
        """A scope finds the layers of a compiled module inside another."""
        net, same = made(), made()
        whole = nn.Sequential(compiled_from(net, "eager"), nn.Identity())
        with tenterhook.attach(whole).capture("0._orig_mod.down") as captured:
            whole(X)
        assert close(captured.last("0._orig_mod.down"), same(X))


class TestScopes:
    """Scopes on a compiled model, which leaves them to Python."""

    @pytest.mark.matrix(sample=1)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_right(self, backend: str) -> None:
        """Captures, changes and replacements are what they are uncompiled."""
        net = made()
        model, compiled = tenterhook.attach(net), compiled_from(net, backend)
        plain = compiled(X)

        def scoped(run: Callable[[Tensor], Tensor]) -> list[Tensor]:
            with (
                model.capture("up", "mid") as captured,
                model.steer("mid", lambda t: t * 3),
                model.steer("down", lambda t: t + 1, hook_type="pre_forward"),
                model.capture("mid") as later,
            ):
                out = run(X)
            return [out, captured.last("up"), captured.last("mid"), later.last("mid")]

        for one, other in zip(scoped(compiled), scoped(net), strict=True):
            assert close(one, other)
        with model.replace("mid", X):
            assert close(compiled(X), net.down(X))
        assert close(compiled(X), plain)
        tenterhook.assert_clean(model)

    def test_stop_after(self) -> None:
        """The end of a forward comes through compiled code."""
        net = made()
        model = tenterhook.attach(net)
        net.compile(backend="aot_eager")
        plain = model(X)
        with model.capture("up", stop_after="up") as captured:
            assert model(X) is None
        assert close(captured.last("up"), net.up(X, plus=X))
        assert close(model(X), plain)

    def test_opened_again_and_again(self) -> None:
        """A scope for each call, as in a sweep, does not run out of the compiler's patience."""
        net = made()
        model, compiled = tenterhook.attach(net), compiled_from(net, "eager")
        plain = compiled(X)
        for number in range(25):
            change = partial(torch.add, other=number)
            with model.steer("down", change), model.capture("up") as captured:
                assert close(compiled(X), plain + number)
            assert len(captured["up"]) == 1
            assert close(compiled(X), plain)

    def test_per_thread(self) -> None:
        """Threads that share a compiled model each have their own scopes, open side by side.

        One calls at a time: torch now and then crashes where several threads compile at once.
        """
        net = made()
        model, compiled = tenterhook.attach(net), compiled_from(net, "eager")
        plain = compiled(X)
        calling, opened = threading.Lock(), threading.Barrier(4)

        def work(number: int) -> bool:
            with model.steer("down", lambda t: t + number), model.capture("down") as captured:
                opened.wait(60)
                with calling:
                    out = compiled(X)
            return close(out, plain + number) and close(captured.last("down"), out)

        with model.steer("down", lambda t: t * 10):
            assert close(compiled(X), plain * 10)
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                assert all(pool.map(work, range(40)))
                assert close(pool.submit(compiled, X).result(), plain)
            assert close(compiled(X), plain * 10)
        assert close(compiled(X), plain)
        tenterhook.assert_clean(model)

    @pytest.mark.matrix(sample=2)
    @pytest.mark.parametrize("scope", ["capture", "steer", "hooks"])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_whole_graph_is_refused(self, scope: str, when: str) -> None:
        """Where no break is allowed, an open scope is an error that says the ways out."""
        net = made()
        model, compiled = tenterhook.attach(net), compiled_from(net, fullgraph=True)
        if when == "after":
            compiled(X)
        opened: Any
        if scope == "capture":
            opened = model.capture("up")
        elif scope == "steer":
            opened = model.steer("up", torch.neg)
        else:
            opened = model.hooks(("up", _Keeps()))
        with (
            pytest.raises(
                torch._dynamo.exc.Unsupported,
                match=r"(?s)A scope of tenterhook.*register a hook before compiling.*fullgraph out",
            ),
            opened,
        ):
            compiled(X)
        assert close(compiled(X), net(X))
        with model.capture("up") as captured:
            net(X)
        assert len(captured["up"]) == 1

    def test_first_scope_after_the_first_call(self) -> None:
        """The first hook of a process, in a scope that comes after compiling, is not ignored."""
        net = made()
        compiled = compiled_from(net)
        plain = compiled(X)
        model = tenterhook.attach(net)
        with model.steer("down", lambda t: t + 1):
            assert close(compiled(X), plain + 1)


class TestAttachedToCompiled:
    """What `torch.compile` returned stands for the module that it was made of."""

    def test_is_the_same(self) -> None:
        """One object, one registry, the names that the module has; hooks run in both."""
        net = made()
        compiled = compiled_from(net)
        model = tenterhook.attach(compiled)
        assert model is tenterhook.attach(net)
        plain = net(X)
        model.layers.register_hook("down", _Applies(lambda t: t * 2))
        assert close(compiled(X), plain * 2)
        assert close(model(X), plain * 2)
        with model.capture("up", "output") as captured:
            out = compiled(X)
        assert close(captured.last("up"), net.up(X, plus=X))
        assert close(captured.last("output"), out)


class TestBackward:
    """Backward hooks break the graph: right without `fullgraph`."""

    @pytest.mark.matrix(sample=3)
    @pytest.mark.parametrize(
        ("backend", "way"),
        [
            *((backend, way) for backend in BACKENDS[:2] for way in ("before", "after", "scope")),
            pytest.param("inductor", "scope", marks=INDUCTOR),
        ],
    )
    def test_right(self, backend: str, way: str) -> None:
        """Gradients are seen and changed as uncompiled, whenever the hooks came."""
        net = made()
        model = tenterhook.attach(net)
        compiled = compiled_from(net, backend)
        if way == "after":
            compiled(X).sum().backward()
        results = []
        for run in (compiled, net):
            x, keeps, triples = (
                X.clone().requires_grad_(),
                _Keeps("backward"),
                _Applies(lambda g: g * 3, "backward"),
            )
            if way == "scope":
                with model.hooks(("mid", triples), ("mid", keeps)):
                    (run(x) ** 2).sum().backward()
            else:
                model.layers.register_hook("mid", triples)
                model.layers.register_hook("mid", keeps, mix="in_order")
                (run(x) ** 2).sum().backward()
                model.layers.clear()
            assert x.grad is not None
            results.append([x.grad, keeps.tensor_metadata["seen"]])
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, atol=1e-4)
        x = X.clone().requires_grad_()
        (compiled(x) ** 2).sum().backward()
        assert x.grad is not None
        assert torch.allclose(x.grad * 3, results[0][0], atol=1e-4)

    def test_gone_for_a_later_backward(self) -> None:
        """A hook whose scope has ended is not in a later backward of a compiled forward."""
        net = made()
        model, keeps = tenterhook.attach(net), _Keeps("backward")
        compiled = compiled_from(net)
        with model.hooks(("mid", keeps), missing="ignore"):
            out = compiled(X)
        out.sum().backward()
        assert keeps.tensor_metadata == {}


def test_uncompiled_stays_as_it_was() -> None:
    """A process that compiles does not change what the module itself does."""
    net = made()
    model: HookedModel = tenterhook.attach(net)
    plain = net(X)
    compiled_from(net)(X)
    with model.steer("down", lambda t: t + 1), model.capture("down") as captured:
        assert close(model(X), plain + 1)
    assert close(captured.last("down"), plain + 1)
    assert close(model(X), plain)
    tenterhook.assert_clean(model)


class TestCodeOfBefore:
    """Code that was compiled before the first hook, and passes over hooks."""

    def test_code_of_others_stays(self) -> None:
        """Hooks on one model compile nothing anew of functions, or of a model of the same class."""
        graphs: list[Any] = []

        def counts(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        net, twin = made(), made()
        model, plain = tenterhook.attach(net), net(X)
        function = torch.compile(lambda t: t.sin() + 1, backend=counts)
        compiled, others = (torch.compile(each, backend=counts) for each in (net, twin))
        for each in (function, compiled, others):
            each(X)
        with model.capture("up") as captured:
            compiled(X)
        hook = _Applies(lambda t: t * 2)
        model.layers.register_hook("down", hook)
        assert close(compiled(X), plain * 2)
        before = len(graphs)
        function(X)
        assert close(others(X), plain)
        assert len(graphs) == before
        model.layers.clear()
        assert close(compiled(X), plain)
        assert len(captured["up"]) == 1
        tenterhook.assert_clean(net)

    def test_hook_that_was_compiled_leaves(self) -> None:
        """A hook that stood when the model was compiled is gone when it is taken off."""
        code = (
            "import torch, tenterhook\n"
            "from tenterhook.hooks import Controller\n"
            "class Doubles(Controller):\n"
            "    def modify_activations(self, module, inputs, output):\n"
            "        return output * 2\n"
            "net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))\n"
            "x, model = torch.ones(1, 2), tenterhook.attach(net)\n"
            "plain = net(x)\n"
            "model.layers.register_hook('1', Doubles())\n"
            "compiled = torch.compile(net, backend='eager')\n"
            "assert torch.allclose(compiled(x), plain * 2)\n"
            "for _ in range(2):\n"
            "    model.layers.clear()\n"
            "    assert torch.allclose(compiled(x), plain)\n"
            "    model.layers.register_hook('1', Doubles())\n"
            "    assert torch.allclose(compiled(x), plain * 2)\n"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
