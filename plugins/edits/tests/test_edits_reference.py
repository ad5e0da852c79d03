"""Every edit against the same change made by a bare torch hook."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Controller
from tenterhook_edits import AddVector, Clamp, MeanAblate, Patch, ProjectOut, Scale, ZeroAblate

BATCH, SEQ, WIDTH = 3, 4, 6

Change = Callable[[Tensor], Tensor]
Case = tuple[Callable[..., Controller], Change]


def cases() -> dict[str, Case]:
    """Return each edit, but for its layer, and what it is to do to an activation."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    vector, directions, source = random(WIDTH), random(2, WIDTH), random(BATCH, SEQ, WIDTH)
    q = torch.linalg.qr(directions.T).Q
    unit = vector / vector.norm()
    mean = random(SEQ, WIDTH)
    return {
        "add": (lambda at, **k: AddVector(at, vector, 3, **k), lambda x: x + 3 * vector),
        "add unit": (
            lambda at, **k: AddVector(at, vector, -2, normalize=True, **k),
            lambda x: x - 2 * unit,
        ),
        "project one": (
            lambda at, **k: ProjectOut(at, vector, **k),
            lambda x: x - (x @ unit)[..., None] * unit,
        ),
        "project two": (lambda at, **k: ProjectOut(at, directions, **k), lambda x: x - x @ q @ q.T),
        "clamp": (lambda at, **k: Clamp(at, -0.5, 0.25, **k), lambda x: x.clamp(-0.5, 0.25)),
        "clamp above": (lambda at, **k: Clamp(at, maximum=0.1, **k), lambda x: x.clamp(max=0.1)),
        "scale": (lambda at, **k: Scale(at, -1.5, **k), lambda x: x * -1.5),
        "zero": (lambda at, **k: ZeroAblate(at, **k), torch.zeros_like),
        "mean": (lambda at, **k: MeanAblate(at, vector, **k), lambda x: vector.expand_as(x)),
        "mean by token": (lambda at, **k: MeanAblate(at, mean, **k), lambda x: mean.expand_as(x)),
        "patch": (lambda at, **k: Patch(at, source, **k), lambda x: source.clone()),
    }


CASES = cases()
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Block(nn.Module):
    """Adds to the residual stream, and returns it alone, in a tuple, or in a dict."""

    def __init__(self, wrapped: str) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Any:
        """Return the stream and, beside it, something that no edit may touch."""
        y = x + self.linear(x).tanh()
        match self.wrapped:
            case "tuple":
                return y, None, x
            case "dict":
                return {"hidden": y, "cache": x}
        return y


class Model(nn.Module):
    """Two blocks and a read-out."""

    def __init__(self, wrapped: str = "tensor") -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(wrapped), Block(wrapped)])
        self.out = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Any:
        """Return the read-out, `(batch, seq, 2)`."""
        for block in self.blocks:
            given: Any = block(x)
            x = given[0] if isinstance(given, tuple) else given
            x = given["hidden"] if isinstance(given, dict) else x
        return self.out(x)


def hook_plainly(layer: nn.Module, change: Change, kind: str) -> Any:
    """Make the change by a torch hook of one's own."""
    if kind == "pre_forward":
        return layer.register_forward_pre_hook(lambda _, args: (change(args[0]),))

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        if isinstance(output, dict):
            return {**output, "hidden": change(output["hidden"])}
        return change(output)

    return layer.register_forward_hook(after)


def run(model: Any, module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of the inputs and weights (zero where none flows)."""
    x = x.clone().requires_grad_()
    output = model(x)
    wanted = [x, *module.parameters()]
    loss = output.square().sum()
    return [output, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)]


@settings(max_examples=60)
@given(
    name=st.sampled_from(list(CASES)),
    kind=st.sampled_from(["forward", "pre_forward"]),
    wrapped=st.sampled_from(["tensor", "tuple", "dict"]),
    scoped=st.booleans(),
    features=st.none() | st.lists(st.integers(-WIDTH, WIDTH - 1), min_size=1, max_size=4),
    rows=st.none() | st.lists(st.integers(-BATCH, BATCH - 1), min_size=1, max_size=2),
    tokens=st.none() | st.sampled_from(["last", "1:", (0, 2)]),
    seed=st.integers(0, 1000),
)
def test_an_edit_is_what_a_plain_hook_does(
    name: str,
    kind: str,
    wrapped: str,
    scoped: bool,
    features: list[int] | None,
    rows: list[int] | None,
    tokens: Any,
    seed: int,
) -> None:
    """Outputs and gradients; after a layer and before it; features, rows and tokens."""
    make, change = CASES[name]
    given: dict[str, Any] = {"hook_type": kind}
    if features is not None and not name.startswith("project"):
        given["features"] = features
    mask = torch.ones(BATCH, SEQ, WIDTH, dtype=torch.bool)
    if "features" in given:
        mask &= torch.zeros(WIDTH, dtype=torch.bool).index_fill(0, torch.tensor(features) % 6, True)
    if scoped and rows is not None:
        mask &= torch.zeros(BATCH, 1, 1).index_fill(0, torch.tensor(rows) % BATCH, 1).bool()
    if scoped and tokens is not None:
        index = {"last": [3], "1:": [1, 2, 3], (0, 2): [0, 2]}[tokens]
        mask &= torch.zeros(SEQ, 1).index_fill(0, torch.tensor(index), 1).bool()
    torch.manual_seed(seed)
    module = Model(wrapped).double()
    x = torch.randn(BATCH, SEQ, WIDTH, dtype=torch.float64)
    layer = "blocks.1"

    handle = hook_plainly(module.blocks[1], lambda a: torch.where(mask, change(a), a), kind)
    expected = run(module, module, x)
    handle.remove()
    model = tenterhook.attach(module)
    edit = make(layer, **given)
    if scoped:
        with model.steer(layer, edit, rows=rows, tokens=tokens, missing="raise"):
            found = run(model, module, x)
    else:
        model.layers.register_hook(layer, edit)
        found = run(model, module, x)

    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@each_case
@pytest.mark.parametrize("kind", ["forward", "pre_forward"])
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_it_compiles_whole(case: Case, kind: str) -> None:
    """A registered edit is traced with no break in the graph."""
    torch._dynamo.reset()
    module = Model().double()
    model = tenterhook.attach(module)
    model.layers.register_hook("blocks.0", case[0]("blocks.0", hook_type=kind))
    x = torch.randn(BATCH, SEQ, WIDTH, dtype=torch.float64)

    compiled = torch.compile(module, backend="eager", fullgraph=True)

    torch.testing.assert_close(compiled(x), module(x))


def test_a_projection_compiles_under_autocast() -> None:
    """Traced without autocast, called with it, and the other way round."""
    torch._dynamo.reset()
    model = tenterhook.attach(nn.Sequential(nn.Identity()))
    model.layers.register_hook("0", ProjectOut("0", torch.ones(2, WIDTH).cumsum(0)))
    compiled = torch.compile(model.module, backend="eager", fullgraph=True)
    x = torch.randn(BATCH, SEQ, WIDTH)

    for on in (False, True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            assert compiled(x).sum(-1).abs().max() < 1e-5


def test_features_compile_whole() -> None:
    """The choice of features, too, and a vector that learns."""
    torch._dynamo.reset()
    module = Model()
    vector = nn.Parameter(torch.randn(WIDTH))
    model = tenterhook.attach(module)
    model.layers.register_hook("blocks.0", AddVector("blocks.0", vector, features=[0, -1]))
    x = torch.randn(BATCH, SEQ, WIDTH)

    compiled = torch.compile(module, backend="eager", fullgraph=True)

    torch.testing.assert_close(compiled(x), module(x))
    compiled(x).sum().backward()
    assert vector.grad is not None
    assert vector.grad[[0, -1]].all()
    assert not vector.grad[1:-1].any()


def test_a_compiled_model_sees_what_is_written_to_the_vector() -> None:
    """The vector is an input of the graph, no constant of it."""
    torch._dynamo.reset()
    module = Model()
    vector = torch.randn(WIDTH)
    model = tenterhook.attach(module)
    model.layers.register_hook("blocks.0", AddVector("blocks.0", vector))
    x = torch.randn(BATCH, SEQ, WIDTH)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    before = compiled(x)

    vector.mul_(2)

    torch.testing.assert_close(compiled(x), module(x))
    assert not torch.equal(compiled(x), before)


@each_case
def test_nobodys_tensors_are_written_to(case: Case) -> None:
    """Neither the activation, nor, by an in-place module after it, what the edit put there."""
    linear = nn.Linear(WIDTH, WIDTH).double()
    model = tenterhook.attach(nn.Sequential(linear, nn.ReLU(inplace=True)))
    edit = case[0]("0")
    given = {
        name: (value, value.clone()) for name, value in vars(edit).items() if torch.is_tensor(value)
    }
    x = torch.randn(BATCH, SEQ, WIDTH, dtype=torch.float64)

    with torch.no_grad(), model.steer("0", edit):
        first, second = model(x), model(x)

    torch.testing.assert_close(first, case[1](linear(x)).relu())
    assert torch.equal(first, second)
    for tensor, copy in given.values():
        assert torch.equal(tensor, copy)


@each_case
def test_training_after_inference_mode(case: Case) -> None:
    """What is kept from a call in inference mode serves autograd later."""
    model = tenterhook.attach(nn.Linear(WIDTH, WIDTH))
    edit = case[0]("output")
    x = torch.randn(BATCH, SEQ, WIDTH, requires_grad=True)
    other = torch.randn(BATCH, SEQ, WIDTH, requires_grad=True)

    with model.steer("output", edit):
        with torch.inference_mode():
            before = model(x)
        after = model(x)
        (model(x) * other).sum().backward()

    assert torch.equal(before, after)
