"""Scopes, registrations, surgery, copies, forks, threads and exceptions in any order.

Hypothesis makes up the order. A plain model of what should be there, in Python numbers, says after
each step what a forward gives, what every capture and detector saw, and whether anything is left
on the modules. A sample with a fixed seed runs with the other tests; `nox -s interleavings` runs a
thousand with another seed each time (`TENTERHOOK_INTERLEAVINGS` says how many).
"""

import copy
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import attrs
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor, nn

import tenterhook
from tenterhook import HookError, NotClean
from tenterhook.hooks import Controller, Detector

EXAMPLES = int(os.environ.get("TENTERHOOK_INTERLEAVINGS", "0"))
SIDES = ("pre_forward", "forward")


class Layer(nn.Module):
    """Adds a number, or fails."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number, self.fails = number, False

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` and the number."""
        if self.fails:
            raise ArithmeticError("the layer fails")
        return x + self.number


class Adds(Controller):
    """Adds a number, or fails."""

    def __init__(self, side: str, number: float) -> None:
        super().__init__(side)
        self.number = number

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor:
        """Return the tensor and the number."""
        if not self.number:
            raise ArithmeticError("the hook fails")
        tensor = inputs if output is None else output
        assert tensor is not None
        return tensor * 2 + self.number


class Sees(Detector):
    """Keeps the numbers that it sees."""

    def __init__(self, side: str) -> None:
        super().__init__(side)
        self.calls: list[float] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep one."""
        (tensor,) = (output,) if output is not None else input
        self.calls.append(tensor.item())


@attrs.define(eq=False)
class Expected:
    """What a hook or scope is to do, where, and what it is to have seen."""

    side: str
    layers: dict[Layer, str]
    hook: Adds | Sees | None = None
    scope: Any = None
    captured: Any = None
    stop: Layer | None = None
    answer: float | None = None
    """What a replacement returns, `None` where it declines."""
    kind: str = "hooks"
    actor: int = 0
    seen: dict[str, list[float]] = attrs.Factory(dict)

    def apply(self, layer: Layer, x: float, muted: bool) -> float:
        """Do at a layer what it is there for."""
        if self.hook is None or not self.hook.enabled:
            if self.kind == "capture":
                self.seen.setdefault(self.layers[layer], []).append(x)
            return x
        if isinstance(self.hook, Sees):
            self.seen.setdefault("", []).append(x)
            return x
        if muted:
            return x
        if not self.hook.number:
            raise ArithmeticError
        return x * 2 + self.hook.number


class Stopped(Exception):
    """A forward has ended early."""


class Interleavings(RuleBasedStateMachine):
    """Two actors, the main thread and another, with a model between them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*(Layer(number) for number in (1.0, 2.0, 3.0)))
        self.model = tenterhook.attach(self.net, missing="ignore")
        self.registered: list[Expected] = []
        self.scopes: dict[int, list[Expected]] = {0: [], 1: []}
        self.left: list[Expected] = []
        """Scopes of threads that have ended."""
        self.other = ThreadPoolExecutor(1)
        self.numbers = 3.0

    # --- the plain model

    def layers(self) -> list[Layer]:
        """Return the layers as they are now."""
        return list(self.net)  # type: ignore[arg-type]

    def run_plainly(self, x: float, scopes: list[Expected]) -> float:
        """Return what a forward is to give; raises as it does."""
        muted = any(scope.kind == "mute" for scope in scopes)
        for layer in self.layers():
            here = [each for each in self.registered if layer in each.layers]
            here += [each for each in scopes if layer in each.layers and each.kind != "replace"]
            for each in here:
                if each.side == "pre_forward":
                    x = each.apply(layer, x, muted)
            answers = [each for each in scopes if each.kind == "replace" and layer in each.layers]
            given = [each.answer for each in answers if each.answer is not None]
            if not given and layer.fails:
                raise ArithmeticError
            x = given[-1] if given else x + layer.number
            for each in here:
                if each.side == "forward":
                    x = each.apply(layer, x, muted)
            if any(each.stop is layer for each in scopes):
                raise Stopped
        return x

    def compare(self, x: float, actor: int, run: Callable[[Tensor], Any]) -> None:
        """Run the model here, and compare."""
        wanted: Any
        try:
            wanted = self.run_plainly(x, self.scopes[actor])
        except ArithmeticError:
            wanted = "failed"
        except Stopped:
            wanted = "stopped"
        got: Any
        try:
            out = run(torch.tensor([x]))
            got = "stopped" if out is None else out.item()
        except (HookError, ArithmeticError):
            got = "failed"
        assert got == wanted

    def everywhere(self) -> list[Expected]:
        """Return all that stands."""
        return [*self.registered, *self.scopes[0], *self.scopes[1], *self.left]

    def named(self, places: list[int]) -> dict[Layer, str]:
        """Return the layers at some places, by name, in order."""
        layers = self.layers()
        at = sorted({place % len(layers) for place in places})
        return {layers[each]: str(each) for each in at}

    def as_actor(self, actor: int, function: Callable[[], Any]) -> Any:
        """Call a function in an actor's thread."""
        return self.other.submit(function).result(30) if actor else function()

    # --- rules

    places = st.lists(st.integers(0, 5), min_size=1, max_size=3)
    actors = st.integers(0, 1)
    sides = st.sampled_from(SIDES)

    def new_hook(self, side: str, kind: str) -> Adds | Sees:
        """Return a hook that controls, fails or detects."""
        self.numbers += 1
        return Sees(side) if kind == "sees" else Adds(side, self.numbers if kind == "adds" else 0)

    kinds = st.sampled_from(["adds", "adds", "sees", "sees", "fails"])

    @rule(place=st.integers(0, 5), side=sides, kind=kinds, prepend=st.booleans())
    def register(self, place: int, side: str, kind: str, prepend: bool) -> None:
        """Register a hook, after or before those that stand there."""
        layers, hook = self.named([place]), self.new_hook(side, kind)
        (name,) = layers.values()
        self.model.layers.register_hook(name, hook, mix="in_order", prepend=prepend)
        new = Expected(side, layers, hook)
        self.registered = [new, *self.registered] if prepend else [*self.registered, new]

    @precondition(lambda self: self.registered)
    @rule(at=st.integers(0, 9))
    def unregister(self, at: int) -> None:
        """Take one off."""
        gone = self.registered.pop(at % len(self.registered))
        assert gone.hook is not None
        assert self.model.layers.unregister_hook(gone.hook)
        assert not self.model.layers.unregister_hook(gone.hook)

    @rule(at=st.integers(0, 9), actor=actors)
    def switch(self, at: int, actor: int) -> None:
        """Enable or disable a hook, whoever it is of, from any thread."""
        hooks = [each.hook for each in self.everywhere() if each.hook is not None]
        if hooks:
            hook = hooks[at % len(hooks)]
            self.as_actor(actor, hook.disable if hook.enabled else hook.enable)

    def opened(self, new: Expected, scope: Any, actor: int) -> Expected:
        """Open a scope as an actor."""
        new.scope, new.actor = scope, actor
        new.captured = self.as_actor(actor, scope.__enter__)
        self.scopes[actor].append(new)
        return new

    @rule(places=places, side=sides, stop=st.none() | st.integers(0, 5), actor=actors)
    def capture(self, places: list[int], side: str, stop: int | None, actor: int) -> None:
        """Open a capture, which may end forwards."""
        layers, inputs = self.named(places), side == "pre_forward"
        end = None if stop is None else next(iter(self.named([stop])))
        stop_after = None if end is None else self.named([stop or 0])[end]
        scope = self.model.capture(
            *layers.values(), inputs=inputs, stop_after=stop_after, missing="ignore"
        )
        self.opened(Expected(side, layers, kind="capture", stop=end), scope, actor)

    @rule(places=places, side=sides, kind=kinds, actor=actors)
    def hooks(self, places: list[int], side: str, kind: str, actor: int) -> None:
        """Open a scope with a hook on one layer or several."""
        layers, hook = self.named(places), self.new_hook(side, kind)
        pairs = [(name, hook) for name in layers.values()]
        scope = self.model.hooks(*pairs, missing="ignore")
        self.opened(Expected(side, layers, hook), scope, actor)

    @rule(place=st.integers(0, 5), declines=st.booleans(), actor=actors)
    def replace(self, place: int, declines: bool, actor: int) -> None:
        """Open a scope that answers for a layer, or declines."""
        layers = self.named([place])
        self.numbers += 1
        answer = None if declines else self.numbers
        output: Any = (lambda x: NotImplemented) if answer is None else torch.tensor([answer])
        (name,) = layers.values()
        scope = self.model.replace(name, output, missing="ignore")
        self.opened(Expected("forward", layers, answer=answer, kind="replace"), scope, actor)

    @rule(actor=actors)
    def mute(self, actor: int) -> None:
        """Switch every controller off, for one thread."""
        self.opened(Expected("", {}, kind="mute"), self.model.without_controllers(), actor)

    @precondition(lambda self: any(self.scopes.values()) or self.left)
    @rule(at=st.integers(0, 9), how=st.sampled_from(["exit", "error", "close", "elsewhere"]))
    def close(self, at: int, how: str) -> None:
        """End a scope: the innermost or another, also by an error, also from another thread."""
        stand = [*reversed(self.scopes[0]), *self.scopes[1], *self.left]
        going = stand[at % len(stand)]
        of = self.left if going in self.left else self.scopes[going.actor]
        of.remove(going)
        if how in ("exit", "error") and of is not self.left:
            given = (None,) * 3 if how == "exit" else (KeyError, KeyError("k"), None)
            self.as_actor(going.actor, lambda: going.scope.__exit__(*given))
        else:
            self.as_actor(going.actor ^ (how == "elsewhere"), going.scope.close)
        going.scope.close()  # a second time does nothing

    @rule(places=places)
    def leave(self, places: list[int]) -> None:
        """Have a thread end with a scope open."""
        layers = self.named(places)
        new = Expected("forward", layers, kind="capture")
        new.scope = self.model.capture(*layers.values(), missing="ignore")
        thread = Thread(target=new.scope.__enter__)
        thread.start()
        thread.join(30)
        self.left.append(new)

    @rule(x=st.integers(-9, 9), actor=actors, whole=st.booleans())
    def run(self, x: int, actor: int, whole: bool) -> None:
        """Run a forward."""
        stops = any(each.stop for each in self.scopes[actor])
        run = self.model if whole or stops else self.net  # a stopped module ends its `with` block
        self.as_actor(actor, lambda: self.compare(float(x), actor, run))

    @rule(x=st.integers(-9, 9), at=st.integers(0, 5), actor=actors)
    def fail(self, x: int, at: int, actor: int) -> None:
        """Run a forward in which a layer fails."""
        (layer,) = self.named([at])
        layer.fails = True
        try:
            self.as_actor(actor, lambda: self.compare(float(x), actor, self.model))
        finally:
            layer.fails = False

    @rule(at=st.integers(0, 5), how=st.sampled_from(["append", "insert", "put", "drop", "move"]))
    def operate(self, at: int, how: str) -> None:
        """Add, exchange, remove or move a layer."""
        self.numbers += 1
        layers, new = self.layers(), Layer(self.numbers)
        at %= len(layers)
        if how == "append":
            self.net.append(new)
        elif how == "insert":
            self.net.insert(at, new)
        elif how == "put":
            self.net[at] = new
        elif how == "drop" and len(layers) > 1:
            del self.net[at]
        elif how == "move":
            self.net[at], self.net[0] = layers[0], layers[at]

    @rule(x=st.integers(-9, 9), way=st.sampled_from(["deepcopy", "pickle"]))
    def copy(self, x: int, way: str) -> None:
        """Copy the module: what runs there is none of ours."""
        answered = [each for each in self.everywhere() if each.kind == "replace"]
        if any(layer in each.layers for each in answered for layer in self.layers()):
            with pytest.raises((TypeError, AttributeError)):
                copy.deepcopy(self.net)
            return
        twin: Any = copy.deepcopy(self.net)
        if way == "pickle":
            twin = pickle.loads(pickle.dumps(self.net))
        tenterhook.assert_clean(twin)
        plain = x + sum(layer.number for layer in self.layers())
        assert twin(torch.tensor([float(x)])).item() == plain
        with tenterhook.attach(twin).capture("0") as captured:
            twin(torch.tensor([float(x)]))
        assert len(captured["0"]) == 1

    @precondition(lambda _: hasattr(os, "fork"))
    @rule(x=st.integers(-9, 9), seldom=st.integers(0, 3))
    def fork(self, x: int, seldom: int) -> None:
        """Go on in a child with the scopes of the main thread."""
        if seldom:
            return
        child = os.fork()
        if not child:
            status = 1
            try:
                self.compare(float(x), 0, self.model)
                self.check()
                for each in reversed(self.scopes[0]):
                    each.scope.close()
                self.scopes[0] = []
                self.compare(float(x), 0, self.model)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    # --- what holds after each

    @invariant()
    def check(self) -> None:
        """See what was seen, and what stands."""
        for each in self.everywhere():
            if isinstance(each.hook, Sees):
                assert each.hook.calls == each.seen.get("", [])
            elif each.kind == "capture" and each.captured is not None:
                found = {name: [t.item() for t in each.captured[name]] for name in each.captured}
                assert found == {name: each.seen.get(name, []) for name in each.layers.values()}
        hooks = {each.hook for each in self.registered}
        assert set(self.model.layers) == hooks
        assert len(self.model.layers) == len(hooks)
        layers = set(self.layers())
        stops = {each.stop for each in self.everywhere()}
        stand = {layer for each in self.everywhere() for layer in each.layers} | stops
        muting = any(each.kind == "mute" for each in self.everywhere())
        if layers & stand:
            with pytest.raises(NotClean, match="Still attached"):
                tenterhook.assert_clean(self.net)
        elif not muting:
            tenterhook.assert_clean(self.net)

    def teardown(self) -> None:
        """Close and clear all; nothing is left."""
        for each in [*self.scopes[0], *self.scopes[1], *self.left]:
            each.scope.close()
        self.model.layers.clear()
        self.other.shutdown()
        tenterhook.assert_clean(self.net)
        for layer in self.layers():
            assert layer.forward.__func__ is Layer.forward  # type: ignore[attr-defined]
        plain = sum(layer.number for layer in self.layers())
        assert self.net(torch.tensor([0.0])).item() == plain


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
