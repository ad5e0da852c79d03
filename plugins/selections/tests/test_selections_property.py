"""Random stacks of selections among other hooks, against bare torch hooks; random lives of scopes.

The reference is one bare torch hook on each side of each layer, which does by hand what the stack
says, with the places of selected tokens counted in plain Python.
"""

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


class _Gives(nn.Module):
    """A linear layer that returns its result in some structure."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.line = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Any:
        made = self.line(x)
        return ("note", made, x) if self.kind == "tuple" else made


KINDS = ["tensor", "tuple"]
"""Core's own tests have the other structures."""


def tensor_in(output: Any) -> Tensor:
    """Return the activation, found by hand."""
    found = output[1] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


def with_tensor(output: Any, tensor: Tensor) -> Any:
    """Return the structure with another activation, by hand."""
    return (output[0], tensor, output[2]) if isinstance(output, tuple) else tensor


class _Net(nn.Module):
    """Layers one after another, one of them run twice; takes vectors and a mask of tokens."""

    def __init__(self, kinds: list[str], twice: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Gives(kind) for kind in kinds)
        self.twice = twice % len(kinds)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        x = inputs_embeds
        extra = torch.zeros(())
        for at in [*range(len(self.layers)), self.twice]:
            output = self.layers[at](x)
            x = tensor_in(output)
            if isinstance(output, tuple):
                assert output[0] == "note"
                extra = extra + output[2].sum()
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
    """How it gets there: registered, or in a scope, with or without a selection."""

    layer: int
    side: HookType
    change: str | None
    """What it changes; `None` where it watches alone."""

    both: bool = False
    tokens: int | None = None
    rows: int | None = None
    feature: int | None = None
    every: int = 1

    @property
    def selected(self) -> bool:
        """Whether only a part counts."""
        return self.way == "selected"


def steps() -> st.SearchStrategy[Step]:
    """Make the steps of a stack; gradients take no selection."""
    forward = [HookType.FORWARD, HookType.PRE_FORWARD]
    where = {
        "layer": st.integers(0, 2),
        "change": st.none() | st.sampled_from(sorted(CHANGES)),
        "both": st.booleans(),
    }
    whole = st.builds(
        Step,
        way=st.sampled_from(["registered", "scoped"]),
        side=st.sampled_from([*forward, HookType.BACKWARD]),
        **where,
    )
    part = st.builds(
        Step,
        way=st.just("selected"),
        side=st.sampled_from(forward),
        tokens=st.none() | st.integers(-SEQ, SEQ - 1),
        rows=st.none() | st.integers(0, BATCH - 1),
        feature=st.none() | st.integers(-WIDTH, WIDTH - 1),
        every=st.integers(1, 2),
        **where,
    )
    return st.one_of(whole, part)


def part_of(step: Step, mask: Tensor, call: int) -> Tensor:
    """Return what counts of a selected step in a call, bool of the activation's shape."""
    counts = torch.zeros(BATCH, SEQ, WIDTH, dtype=torch.bool)
    if call % step.every:
        return counts
    for row in range(BATCH) if step.rows is None else [step.rows]:
        places = list(range(SEQ))
        if step.tokens is not None:
            real = [place for place in places if mask[row, place]]
            at = step.tokens if step.tokens >= 0 else len(real) + step.tokens
            places = [real[at]] if 0 <= at < len(real) else []
        for place in places:
            if step.feature is None:
                counts[row, place] = True
            else:
                counts[row, place, step.feature] = True
    return counts


class Reference:
    """The stack as bare torch hooks."""

    def __init__(self, net: _Net, stack: list[Step], mask: Tensor) -> None:
        self.stack, self.mask = stack, mask
        self.seen: list[list[Tensor]] = [[] for _ in stack]
        self.calls = [0] * len(stack)
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
            call, self.calls[number] = self.calls[number], self.calls[number] + 1
            if step.selected:
                counts = part_of(step, self.mask, call)
                if step.change is None:
                    self.seen[number].append(tensor.detach()[counts])
                    continue
                if not counts.any():
                    continue
            elif step.change is None or step.both:
                self.seen[number].append(tensor.detach().clone())
            if step.change is not None:
                new = CHANGES[step.change](tensor)
                if new is not None:
                    tensor = torch.where(counts, new, tensor) if step.selected else new
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
    if step.selected:
        parts: dict[str, Any] = {
            "tokens": step.tokens,
            "rows": step.rows,
            "features": step.feature,
            "every": step.every,
            "missing": "ignore",
        }
        if step.change is None:
            inputs = step.side is HookType.PRE_FORWARD
            captured = scopes.enter_context(model.capture(name, inputs=inputs, **parts))
            return lambda: [t.flatten() for t in captured[name]]
        scopes.enter_context(model.steer(name, CHANGES[step.change], hook_type=step.side, **parts))
        return list
    watching = step.change is None
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


MASKS = [[[1, 1, 1], [1, 1, 1]], [[0, 1, 1], [1, 1, 1]], [[1, 0, 0], [1, 1, 0]]]


@settings(max_examples=250, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=3),
    twice=st.integers(0, 2),
    mask=st.sampled_from(MASKS),
    stack=st.lists(steps(), max_size=6),
)
def test_stacks_equal_bare_torch_hooks(
    kinds: list[str], twice: int, mask: list[list[int]], stack: list[Step]
) -> None:
    """Outputs, gradients and all that is seen are those of bare hooks, to the bit."""
    ours, bare = made(kinds, twice), made(kinds, twice)
    before = [p.detach().clone() for p in ours.parameters()]
    tokens = torch.tensor(mask)
    reference = Reference(bare, stack, tokens)
    model = tenterhook.attach(ours)
    results = []
    with ExitStack() as scopes:
        seen = [attach_step(model, scopes, step) for step in stack]
        for net in (ours, bare):
            x = torch.linspace(-1, 2, BATCH * SEQ * WIDTH).reshape(BATCH, SEQ, WIDTH)
            x.requires_grad_()
            out = net(x * 1, tokens)
            (out**2).sum().backward()
            results.append([out.detach(), x.grad, *(p.grad for p in net.parameters())])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (other is not None and torch.equal(one, other))
    for step, ours_saw, bare_saw in zip(stack, seen, reference.seen, strict=True):
        if step.selected and step.change is None:  # ours has no call where it was not the turn
            bare_saw = [t for call, t in enumerate(bare_saw) if call % step.every == 0]
        assert [t.flatten().tolist() for t in ours_saw()] == [
            t.flatten().tolist() for t in bare_saw
        ]
    assert all(torch.equal(one, p) for one, p in zip(before, ours.parameters(), strict=True))
    model.layers.clear()
    assert all(count == (0, 0) for count in torch_hooks(ours))
    tenterhook.assert_clean(model)


class _Fails(Exception):
    """What a random life of scopes ends with."""


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "close", "run", "fail"]),
        st.integers(0, 11),
    ),
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(ACTIONS)
def test_lives_of_scopes(actions: list[tuple[str, int]]) -> None:
    """Scopes that come, go, overlap and fail leave the hooks that were there before.

    While they live, every forward gives what those that are open say.
    """
    net = made(["tensor", "tuple", "tensor"], 0)
    foreign: list[int] = []
    for at, layer in enumerate(net.layers):
        layer.register_forward_hook(lambda m, a, out, at=at: foreign.append(at))
    began = torch_hooks(net)
    kept = [list(layer._forward_hooks.values()) for layer in net.layers]
    model = tenterhook.attach(net)
    x = torch.ones(BATCH, SEQ, WIDTH)
    mask = torch.ones(BATCH, SEQ, dtype=torch.long)
    ran: list[int] = []
    opened: dict[int, Scope] = {}

    def note(number: int) -> Callable[[Tensor], None]:
        return lambda t: ran.append(number)

    def run() -> None:
        ran.clear()
        foreign.clear()
        model(x, mask)
        assert sorted(ran) == sorted(n for n in opened for _ in range(2 if n % 3 == 0 else 1))
        assert foreign == [0, 1, 2, 0]

    for serial, (action, pick) in enumerate(actions):
        number = serial * 3 + pick % 3  # its layer is the remainder
        name = f"layers.{number % 3}"
        if action == "open":
            parts: dict[str, Any] = [{}, {"tokens": 0}, {"rows": 1}, {"features": 0}][pick // 3]
            opened[number] = model.steer(name, note(number), missing="ignore", **parts)
            opened[number].__enter__()
        elif action == "close" and opened:
            key = sorted(opened)[pick % len(opened)]
            opened.pop(key).__exit__(None, None, None)
        elif action == "fail":

            def fail(t: Tensor) -> Tensor:
                raise _Fails

            with pytest.raises(tenterhook.HookError), model.capture(name), model.steer(name, fail):
                model(x, mask)
        run()
    for scope in opened.values():
        scope.close()
    opened.clear()
    run()
    assert torch_hooks(net) == began
    assert [list(layer._forward_hooks.values()) for layer in net.layers] == kept
    tenterhook.assert_clean(model)
