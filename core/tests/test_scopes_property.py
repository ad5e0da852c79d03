"""Random stacks of hooks, scopes and captures against bare torch hooks; random lives of scopes.

The reference is one bare torch hook on each side of each layer, which does by hand what the stack
says.
"""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel
from tenterhook.hooks import Controller, Detector, HookType
from tenterhook.scopes import Scope

BATCH, SEQ, WIDTH = 2, 3, 2
CHANGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "double": lambda t: t * 2,
    "shift": lambda t: t + 1,
    "turn": lambda t: t.flip(-1),
    "mix": lambda t: t - t.mean(1, keepdim=True),
    "none": lambda t: None,
}


@dataclasses.dataclass(frozen=True)
class Hidden:
    """An output with the activation among other fields."""

    note: str
    last_hidden_state: Tensor
    extra: Tensor


class _Gives(nn.Module):
    """A linear layer that returns its result in some structure."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.line = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(BATCH, SEQ, WIDTH))

    def forward(self, x: Tensor) -> Any:
        if self.kind == "parameter":
            return self.weight
        if self.kind == "input":
            return x
        if self.kind == "in_place":
            return self.line(x).relu_()
        made = self.line(x)
        match self.kind:
            case "tuple":
                return "note", made, x
            case "list":
                return [made, x]
            case "dict":
                return {"note": "note", "hidden": made, "extra": x}
            case "dataclass":
                return Hidden("note", made, x)
        return made


KINDS = ["tensor", "tuple", "list", "dict", "dataclass", "input", "parameter", "in_place"]


def tensor_in(output: Any) -> Tensor:
    """Return the activation, found by hand."""
    match output:
        case tuple():
            output = output[1]
        case list():
            output = output[0]
        case dict():
            output = output["hidden"]
        case Hidden():
            output = output.last_hidden_state
    assert isinstance(output, Tensor)
    return output


def with_tensor(output: Any, tensor: Tensor) -> Any:
    """Return the structure with another activation, by hand."""
    match output:
        case tuple():
            return output[0], tensor, output[2]
        case list():
            return [tensor, output[1]]
        case dict():
            return {**output, "hidden": tensor}
        case Hidden():
            return Hidden(output.note, tensor, output.extra)
    return tensor


class _Net(nn.Module):
    """Layers one after another, one of them run twice."""

    def __init__(self, kinds: list[str], twice: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Gives(kind) for kind in kinds)
        self.twice = twice % len(kinds)

    def forward(self, x: Tensor) -> Tensor:
        extra = torch.zeros(())
        for at in [*range(len(self.layers)), self.twice]:
            output = self.layers[at](x)
            x = tensor_in(output)
            if isinstance(output, tuple | dict | Hidden):
                others = vars(output) if isinstance(output, Hidden) else output
                note = others[0] if isinstance(others, tuple) else others["note"]
                assert note == "note"
                extra = extra + (others[2] if isinstance(others, tuple) else others["extra"]).sum()
        return x + 0.01 * extra


class _Watches(Detector):
    def __init__(self, hook_type: HookType) -> None:
        super().__init__(hook_type)
        self.seen: list[Tensor] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        tensor = input[0] if self.hook_type is HookType.PRE_FORWARD else tensor_in(output)
        self.seen.append(tensor.detach().clone())


class _Changes(Controller):
    def __init__(self, change: Callable[[Tensor], Tensor | None], hook_type: HookType) -> None:
        super().__init__(hook_type)
        self.change = change

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        tensor = inputs if output is None else output
        assert tensor is not None
        return self.change(tensor)


class _Both(_Watches, Controller):
    def __init__(self, change: Callable[[Tensor], Tensor | None], hook_type: HookType) -> None:
        super().__init__(hook_type)
        self.change = change

    modify_activations = _Changes.modify_activations


@attrs.frozen
class Step:
    """One hook of a stack."""

    way: str
    """How it gets there: registered, or in a scope; where it watches a forward, in a capture."""

    layer: int
    side: HookType
    change: str | None
    """What it changes; `None` where it watches alone."""

    both: bool


STEPS = st.builds(
    Step,
    way=st.sampled_from(["registered", "scoped", "captured"]),
    layer=st.integers(0, 2),
    side=st.sampled_from([HookType.FORWARD, HookType.PRE_FORWARD, HookType.BACKWARD]),
    change=st.none() | st.sampled_from(sorted(CHANGES)),
    both=st.booleans(),
)


class Reference:
    """The stack as bare torch hooks."""

    def __init__(self, net: _Net, stack: list[Step]) -> None:
        self.stack = stack
        self.seen: list[list[Tensor]] = [[] for _ in stack]
        for at, layer in enumerate(net.layers):
            layer.register_forward_pre_hook(self.before(at))
            layer.register_forward_hook(self.after(at))

    def at(self, layer: int, side: HookType) -> list[tuple[int, Step]]:
        """Return the steps there in the order that they run: registered ones before scopes."""
        here = [(n, s) for n, s in enumerate(self.stack) if (s.layer, s.side) == (layer, side)]
        return sorted(here, key=lambda one: one[1].way != "registered")

    def run(self, layer: int, side: HookType, tensor: Tensor) -> Tensor:
        """Do what the steps do on one side of one layer."""
        for number, step in self.at(layer, side):
            if step.change is None or step.both:
                self.seen[number].append(tensor.detach().clone())
            if step.change is not None:
                new = CHANGES[step.change](tensor)
                tensor = tensor if new is None else new
        return tensor

    def before(self, layer: int) -> Callable[..., Any]:
        """Return the hook before a layer."""

        def hook(module: nn.Module, args: Any) -> Any:
            return (self.run(layer, HookType.PRE_FORWARD, args[0]),)

        return hook

    def after(self, layer: int) -> Callable[..., Any]:
        """Return the hook after a layer."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            tensor = self.run(layer, HookType.FORWARD, tensor_in(output))
            if self.at(layer, HookType.BACKWARD) and tensor.requires_grad:
                tensor = tensor.clone()
                tensor.register_hook(  # type: ignore[no-untyped-call]
                    lambda grad: self.run(layer, HookType.BACKWARD, grad)
                )
            return with_tensor(output, tensor)

        return hook


def attach_step(model: HookedModel, scopes: ExitStack, step: Step) -> Callable[[], list[Tensor]]:
    """Have a step run in the model; return a function that gives what it saw."""
    name = f"layers.{step.layer}"
    watching = step.change is None
    if step.way == "captured" and watching and step.side is not HookType.BACKWARD:
        inputs = step.side is HookType.PRE_FORWARD
        captured = scopes.enter_context(model.capture(name, inputs=inputs, missing="ignore"))
        return lambda: list(captured[name])
    hook: Any = (
        _Watches(step.side)
        if watching
        else (_Both if step.both else _Changes)(CHANGES[step.change or ""], step.side)
    )
    if step.way == "registered":
        model.layers.register_hook(name, hook, mix="in_order")
    else:
        scopes.enter_context(model.hooks((name, hook), missing="ignore"))
    return lambda: getattr(hook, "seen", [])


def made(kinds: list[str], twice: int) -> _Net:
    """Return a net, the same for the same kinds."""
    torch.manual_seed(0)
    return _Net(kinds, twice)


def torch_hooks(module: nn.Module) -> list[tuple[int, ...]]:
    """Count the torch hooks of each module."""
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]


@settings(max_examples=250, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=3),
    twice=st.integers(0, 2),
    stack=st.lists(STEPS, max_size=6),
)
def test_stacks_equal_bare_torch_hooks(kinds: list[str], twice: int, stack: list[Step]) -> None:
    """Outputs, gradients and all that is seen are those of bare hooks, to the bit."""
    ours, bare = made(kinds, twice), made(kinds, twice)
    before = [p.detach().clone() for p in ours.parameters()]
    reference = Reference(bare, stack)
    model = tenterhook.attach(ours)
    results = []
    with ExitStack() as scopes:
        seen = [attach_step(model, scopes, step) for step in stack]
        for net in (ours, bare):
            x = torch.linspace(-1, 2, BATCH * SEQ * WIDTH).reshape(BATCH, SEQ, WIDTH)
            x.requires_grad_()
            out = net(x * 1)
            (out**2).sum().backward()
            results.append([out.detach(), x.grad, *(p.grad for p in net.parameters())])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (other is not None and torch.equal(one, other))
    for ours_saw, bare_saw in zip(seen, reference.seen, strict=True):
        assert [t.tolist() for t in ours_saw()] == [t.tolist() for t in bare_saw]
    assert all(torch.equal(one, p) for one, p in zip(before, ours.parameters(), strict=True))
    model.layers.clear()
    assert all(count == (0, 0) for count in torch_hooks(ours))
    tenterhook.assert_clean(model)


class _Fails(Exception):
    """What a random life of scopes ends with."""


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "close", "register", "unregister", "switch", "run", "fail"]),
        st.integers(0, 11),
    ),
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(ACTIONS)
def test_lives_of_scopes(actions: list[tuple[str, int]]) -> None:
    """Scopes and hooks that come, go, overlap and fail leave the hooks that were there before.

    While they live, every forward gives what those that are open say.
    """
    net = made(["tensor", "tuple", "dict"], 0)
    foreign: list[int] = []
    for at, layer in enumerate(net.layers):
        layer.register_forward_hook(lambda m, a, out, at=at: foreign.append(at))
    began = torch_hooks(net)
    kept = [list(layer._forward_hooks.values()) for layer in net.layers]
    model = tenterhook.attach(net)
    x = torch.ones(BATCH, SEQ, WIDTH)
    ran: list[int] = []
    opened: dict[int, Scope] = {}
    registered: dict[int, Controller] = {}

    def note(number: int) -> Callable[[Tensor], None]:
        return lambda t: ran.append(number)

    def run() -> None:
        ran.clear()
        foreign.clear()
        model(x)
        hooks = [n for n, hook in registered.items() if hook.enabled]
        assert sorted(ran) == sorted(
            n for n in [*hooks, *opened] for _ in range(2 if n % 3 == 0 else 1)
        )
        assert foreign == [0, 1, 2, 0]

    for serial, (action, pick) in enumerate(actions):
        number = serial * 3 + pick % 3  # its layer is the remainder
        name = f"layers.{number % 3}"
        if action == "open":
            opened[number] = model.steer(name, note(number), missing="ignore")
            opened[number].__enter__()
        elif action == "close" and opened:
            key = sorted(opened)[pick % len(opened)]
            opened.pop(key).__exit__(None, None, None)
        elif action == "register":
            hook = _Changes(note(number), HookType.FORWARD)
            registered[number] = hook
            model.layers.register_hook(name, hook, prepend=bool(pick % 2))
        elif action == "unregister" and registered:
            key = sorted(registered)[pick % len(registered)]
            model.layers.unregister_hook(registered.pop(key))
        elif action == "switch" and registered:
            switched = registered[sorted(registered)[pick % len(registered)]]
            (switched.disable if switched.enabled else switched.enable)()
        elif action == "fail":

            def fail(t: Tensor) -> Tensor:
                raise _Fails

            with pytest.raises(tenterhook.HookError), model.capture(name), model.steer(name, fail):
                model(x)
        run()
    for scope in opened.values():
        scope.close()
    opened.clear()
    run()
    model.layers.clear()
    assert torch_hooks(net) == began
    assert [list(layer._forward_hooks.values()) for layer in net.layers] == kept
    tenterhook.assert_clean(model)
