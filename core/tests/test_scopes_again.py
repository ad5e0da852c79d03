"""Scopes that use again what earlier ones on the same layers left: never what was theirs alone."""

import copy
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, HookError
from tenterhook.hooks import Controller, Detector

X = torch.tensor([[1.0, -2.0]])
NAMES = ("a", "b", "c")


class _Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class _Stack(nn.Module):
    """Three layers, the second of which runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = _Doubles(), _Doubles(), _Doubles()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(self.b(self.b(self.a(x))))
        return out


class _Adds(Controller):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output + self.number


class _Keeps(Detector):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Tensor]] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.seen.append((self.layer_signature, output.clone()))


@pytest.fixture
def model() -> HookedModel:
    """A small model."""
    return tenterhook.attach(_Stack())


SETS = [("a",), ("b",), ("a", "b", "c"), ("*",), ("c", "a")]


class Model:
    """What scopes are to give, by hand: the open ones, in the order they were opened."""

    def __init__(self) -> None:
        self.open: list[tuple[str, tuple[str, ...], float, dict[str, list[Tensor]]]] = []
        self.registered: dict[str, list[float]] = {name: [] for name in NAMES}

    def run(self, x: Tensor, *, mine: bool = True) -> Tensor:
        """Run the stack, with the scopes that are `mine` or of no scope at all."""
        scopes = self.open if mine else []
        muted = any(kind == "mute" for kind, *_ in scopes)
        for name in ("a", "b", "b", "c"):
            x = x * 2 + (0 if muted else sum(self.registered[name]))
            for kind, layers, number, seen in scopes:
                if name not in layers:
                    continue
                if kind in ("capture", "keeps"):
                    seen[name].append(x.clone())
                elif kind in ("steer", "adds") and not muted:
                    x = x + number
        return x


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("capture", "steer", "adds", "keeps", "mute", "close", "close", "last", "last"),
                *("register", "clear", "replace dictionaries", "other thread", "decorate"),
            ]
        ),
        st.integers(0, 9),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_random_lives(actions: list[tuple[str, int]]) -> None:
    """Scopes of few sets of layers, opened over and over, in any order: each has its own alone."""
    model = tenterhook.attach(_Stack())
    with ExitStack() as at_the_end:
        live(model, actions, at_the_end)
    model.layers.clear()
    assert torch.equal(model(X), Model().run(X))
    tenterhook.assert_clean(model)


def live(model: HookedModel, actions: list[tuple[str, int]], at_the_end: ExitStack) -> None:
    """Do what the actions say, and compare with `Model` after each."""
    plain = Model()
    opened: list[tuple[Any, Any]] = []

    def open_one(kind: str, choice: tuple[str, ...], number: float) -> None:
        first, result = choice[0], None
        scope: Any
        if kind == "capture":
            scope = model.capture(*choice, missing="ignore")
        elif kind == "steer":
            choice = choice[:1]
            scope = model.steer(first, lambda t: t + number, missing="ignore")
        elif kind == "mute":
            scope = model.without_controllers()
        else:
            result = hook = _Adds(number) if kind == "adds" else _Keeps()
            scope = model.hooks(*((layer, hook) for layer in choice), missing="ignore")
        entered = scope.__enter__()
        at_the_end.callback(scope.close)
        opened.append((scope, result or entered))
        layers = NAMES if choice == ("*",) else choice
        plain.open.append((kind, layers, number, {name: [] for name in layers}))

    def check() -> None:
        assert torch.equal(model(X), plain.run(X))
        for (_, result), (kind, _, _, seen) in zip(opened, plain.open, strict=True):
            if kind == "keeps":
                given = {name: [t for at, t in result.seen if at == name] for name in seen}
            else:
                given = dict(result) if kind == "capture" else {name: [] for name in seen}
            plainly = {name: [t.tolist() for t in calls] for name, calls in given.items()}
            assert plainly == {name: [t.tolist() for t in calls] for name, calls in seen.items()}

    for number, (action, pick) in enumerate(actions, 1):
        if action in ("capture", "steer", "adds", "keeps", "mute"):
            open_one(action, SETS[pick % len(SETS)], float(number))
        elif action in ("close", "last") and opened:
            at = pick % len(opened) if action == "close" else -1
            scope, _ = opened.pop(at)
            plain.open.pop(at)
            scope.__exit__(None, None, None)
        elif action == "register" and all(kind != "mute" for kind, *_ in plain.open):
            name = NAMES[pick % 3]
            model.layers.register_hook(name, _Adds(float(number)))
            plain.registered[name].append(float(number))
        elif action == "clear":
            model.layers.clear()
            plain.registered = {name: [] for name in NAMES}
        elif action == "replace dictionaries" and not opened and not len(model.layers):
            for inner in model.module.modules():
                inner._forward_hooks = OrderedDict()
        elif action == "other thread":
            with ThreadPoolExecutor(1) as pool:
                out = pool.submit(model, X).result()
            assert torch.equal(out, plain.run(X, mine=False))
        elif action == "decorate":
            run = model.steer("a", lambda t, n=number: t + n, missing="ignore")(model)
            plain.open.append(("steer", ("a",), float(number), {}))
            assert torch.equal(run(X), plain.run(X))
            plain.open.pop()
        check()


class TestItsOwn:
    def test_lists_of_each_capture(self, model: HookedModel) -> None:
        """What one capture gave stays as it was when the next fills its own."""
        captures = []
        for number in range(3):
            with model.capture("a", "b") as captured:
                model(X * number)
            captures.append(captured)
        assert [c.last("a").tolist() for c in captures] == [(X * n * 2).tolist() for n in range(3)]
        assert [len(c["b"]) for c in captures] == [2, 2, 2]

    def test_function_of_each_steer(self, model: HookedModel) -> None:
        """The function of a scope that has ended runs no more, and is let go."""
        for number in range(3):
            with model.steer("c", lambda t, n=number: t + n):
                assert torch.equal(model(X), X * 16 + number)
        assert torch.equal(model(X), X * 16)

    def test_layers_of_errors(self, model: HookedModel) -> None:
        """An error names the layer at which the function of this scope failed, each time."""

        def fails_at(layer: str) -> Callable[[Tensor], Tensor | None]:
            def fail(tensor: Tensor) -> Tensor | None:
                if layer == where[-1]:
                    raise KeyError(layer)
                return None

            return fail

        where: list[Any] = []
        for name in NAMES:
            scope = model.steer("*", fails_at(name))
            where.append("nowhere")
            with scope:
                model(X)
                hook = scope.hooks[0]
                assert hook.layer_signature == "c"
            where[-1] = name
            with pytest.raises(HookError, match=f"Layer 'a'.*KeyError: '{name}'"), scope:
                model(X)

    def test_functions_that_write_in_place(self, model: HookedModel) -> None:
        """A function that writes to the activation is found, in the first scope and later ones."""
        for _ in range(2):
            with (
                pytest.raises(HookError, match="wrote to the activation in place"),
                model.steer("b", lambda t: t.add_(1)),
            ):
                model(X)

    @pytest.mark.parametrize("wrong", [3, "text", [X]])
    def test_functions_that_return_no_tensor(self, model: HookedModel, wrong: Any) -> None:
        """What is no tensor is an error that says so, in the first scope and later ones."""
        for _ in range(2):
            with (
                pytest.raises(HookError, match=r"It returned .*; return a tensor, or None"),
                model.steer("b", lambda t: wrong),
            ):
                model(X)

    def test_in_inference_mode(self, model: HookedModel) -> None:
        """Functions change inference tensors, whose writes in place cannot be found."""
        with torch.inference_mode(), model.steer("c", lambda t: t + 1):
            assert torch.equal(model(X), X * 16 + 1)

    def test_hook_on_several_layers(self, model: HookedModel) -> None:
        """A hook of one scope and then of another sees the layers of each."""
        for layers in (("a", "b"), ("a", "b"), ("c",)):
            hook = _Keeps()
            with model.hooks(*((layer, hook) for layer in layers)):
                model(X)
            assert [name for name, _ in hook.seen] == [
                name for name in ("a", "b", "b", "c") if name in layers
            ]


class TestStrangers:
    @pytest.mark.parametrize("attribute", ["_forward_hooks", "_forward_pre_hooks"])
    def test_new_dictionaries(self, model: HookedModel, attribute: str) -> None:
        """A module that was given new dictionaries of hooks is steered in the next scope at once.

        Nobody is told of them, so each scope looks.
        """
        kind = "forward" if attribute == "_forward_hooks" else "pre_forward"
        for _ in range(3):
            with model.steer("c", lambda t: t * 3, hook_type=kind):
                assert torch.equal(model(X), X * 48)
            with model.capture("c", inputs=kind == "pre_forward") as captured:
                model(X)
            assert len(captured["c"]) == 1
            setattr(model.module.get_submodule("c"), attribute, OrderedDict())

    def test_copies_in_an_open_scope(self, model: HookedModel) -> None:
        """A copy or pickle of the module in the middle of scopes has none of them."""
        with model.steer("a", lambda t: t + 1), model.capture("b", "c") as captured:
            copied = copy.deepcopy(model.module)
            pickled = pickle.loads(pickle.dumps(model.module))
            assert torch.equal(copied(X), X * 16)
            assert torch.equal(pickled(X), X * 16)
            model(X)
        assert torch.equal(captured.last("c"), (X * 2 + 1) * 8)


class TestClosedByAHook:
    """A hook that ends a scope in the middle of a call; the same or another thread opens one."""

    @pytest.mark.parametrize("kind", ["capture", "steer"])
    def test_opened_by_another_thread_at_once(self, model: HookedModel, kind: str) -> None:
        """What the other thread was given is not run for this one's call."""
        ran: list[str] = []

        def scope(who: str) -> Any:
            if kind == "capture":
                return model.capture("b", missing="ignore")
            return model.steer("b", lambda t: ran.append(who), missing="ignore")

        inner, opened, close = scope("mine"), threading.Event(), threading.Event()
        theirs: list[Any] = []

        def other() -> None:
            with scope("theirs") as captured:
                opened.set()
                close.wait(10)
                theirs.append(captured)

        thread = threading.Thread(target=other)

        def end(tensor: Tensor) -> None:
            if not thread.ident:
                inner.__exit__(None, None, None)
                thread.start()
                assert opened.wait(10)

        with model.steer("b", end):
            captured = inner.__enter__()
            model(X)
            close.set()
            thread.join()
        assert ran == []
        if kind == "capture":
            assert len(captured["b"]) == len(theirs[0]["b"]) == 0
        tenterhook.assert_clean(model)

    def test_stack_of_scopes(self, model: HookedModel) -> None:
        """All that are open may be ended, and the call goes on without them."""
        stack = ExitStack()

        def end(tensor: Tensor) -> None:
            stack.close()

        stack.enter_context(model.steer("b", end))
        for _ in range(3):
            stack.enter_context(model.steer("b", lambda t: t * 0, missing="ignore"))
            stack.enter_context(model.capture("b", "c", stop_after="c", missing="ignore"))
        assert torch.equal(model(X), X * 16)
        with model.steer("b", lambda t: t + 1), model.capture("b") as captured:
            model(X)
        assert len(captured["b"]) == 2
        tenterhook.assert_clean(model)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_compiled_inside_an_open_scope(model: HookedModel) -> None:
    """A model that is compiled while a scope is open has it for as long as it is open."""
    torch._dynamo.reset()
    with model.steer("c", lambda t: t + 1):
        compiled = torch.compile(model.module, backend="eager")
        assert torch.equal(compiled(X), X * 16 + 1)
    assert torch.equal(compiled(X), X * 16)
    with model.steer("c", lambda t: t + 2):
        assert torch.equal(compiled(X), X * 16 + 2)
    torch._dynamo.reset()
