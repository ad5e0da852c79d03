"""Selections where more is at work: gradients, compiled models, copies, threads, failures."""

import copy
import gc
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import tenterhook
from tenterhook import HookedModel, HookError
from tenterhook.hooks import Controller, Detector, HookWarning

WIDTH = 4
X = torch.linspace(-1, 1, 2 * 3 * WIDTH).reshape(2, 3, WIDTH)


class _Net(nn.Module):
    """Two layers over vectors of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class _Texts(nn.Module):
    """Takes ids and mask as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(9, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.line(self.embed(input_ids))
        return out * attention_mask[..., None]


class _Steers(Controller, nn.Module):
    """A controller that holds a vector to train."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        Controller.__init__(self)
        self.vector = nn.Parameter(torch.zeros(WIDTH))

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output + self.vector


class _Gradients(Detector):
    def __init__(self) -> None:
        super().__init__("backward")
        self.seen: list[Tensor] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.seen.append(output.clone())


@pytest.fixture
def model() -> HookedModel:
    """A small model whose weights are not trained."""
    torch.manual_seed(0)
    return tenterhook.attach(_Net().requires_grad_(False))


def close(one: Tensor, other: Tensor) -> bool:
    """Say whether two results are one, fused arithmetic aside."""
    return torch.allclose(one, other, atol=1e-5)


class TestTraining:
    def test_a_vector_learns_at_one_token(self, model: HookedModel) -> None:
        """A selected change learns what another did, at the same token."""
        wanted = torch.tensor([0.7, -0.4, 0.2, 0.5])
        hook = _Steers()
        x = torch.randn(8, 3, WIDTH, generator=torch.Generator().manual_seed(1))
        with model.steer("first", lambda t: t + wanted, tokens=-1):
            target = model(x)
        optimizer = torch.optim.Adam(hook.parameters(), 0.05)
        losses = []
        for _ in range(150):
            optimizer.zero_grad()
            with model.steer("first", hook, tokens=-1):
                loss = ((model(x) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] / 100

    def test_what_is_not_selected_gives_no_gradient(self, model: HookedModel) -> None:
        """Only the selected rows and tokens train the vector."""
        hook, keeps = _Steers(), _Gradients()
        with model.steer("first", hook, rows=1, tokens=[0, 1]), model.hooks(("first", keeps)):
            (model(X) ** 2).sum().backward()
        assert hook.vector.grad is not None
        assert torch.allclose(hook.vector.grad, keeps.seen[0][1, :2].sum(0))


class TestCheckpointed:
    """Layers that run again during `backward()`."""

    @pytest.mark.parametrize("kind", ["forward", "pre_forward"])
    @pytest.mark.parametrize("change", ["times", "saves", "constant"])
    def test_backward_within(self, change: str, kind: str) -> None:
        """Gradients are those without checkpointing while the scope is open."""
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "times": lambda h: 3 * h,
            "saves": lambda h: h.sigmoid(),
            "constant": torch.ones_like,
        }
        torch.manual_seed(0)
        net, weights = _Net(), []
        model = tenterhook.attach(net)
        with model.steer("first", changes[change], hook_type=kind, features=1):
            for run in (net, lambda x: checkpoint(net, x, use_reentrant=False)):
                net.zero_grad()
                run(X).sum().backward()  # type: ignore[no-untyped-call]
                weights.append([p.grad for p in net.parameters()])
        for one, other in zip(*weights, strict=True):
            assert one is not None
            assert other is not None
            assert torch.allclose(one, other)


@pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script:DeprecationWarning")
class TestCompiled:
    """Scopes on a compiled model, which leaves them to Python."""

    @pytest.fixture(autouse=True)
    def fresh_compiler(self) -> Iterator[None]:
        """Compile anew in each test."""
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_right(self, model: HookedModel, backend: str) -> None:
        """What is selected of a compiled model is what is selected uncompiled."""
        net = model.module
        compiled = torch.compile(net, backend=backend)
        plain = compiled(X)

        def scoped(run: Callable[[Tensor], Tensor]) -> list[Tensor]:
            with (
                model.capture("first") as whole,
                model.steer("first", lambda t: t * 3, tokens="last", rows=0),
                model.steer("second", lambda t: t + 1, hook_type="pre_forward", features=0),
                model.capture("second", tokens=0) as some,
            ):
                out = run(X)
            return [out, whole.last("first"), some.last("second")]

        for one, other in zip(scoped(compiled), scoped(net), strict=True):
            assert close(one, other)
        assert close(compiled(X), plain)
        tenterhook.assert_clean(model)

    def test_by_mask(self) -> None:
        """A selection sees the mask that a compiled model is given."""
        net = _Texts()
        model, compiled = tenterhook.attach(net), torch.compile(net, backend="aot_eager")
        ids, mask = torch.arange(6).reshape(2, 3), torch.tensor([[1, 1, 0], [1, 1, 1]])
        compiled(ids, mask)
        with (
            model.capture("line", tokens="last") as captured,
            model.steer("embed", lambda t: t * 0, tokens="last"),
        ):
            compiled(ids, attention_mask=mask)
        assert captured.where("line")[0].tolist() == [[0, 1], [1, 2]]
        assert close(captured.last("line"), net.line.bias.expand(2, WIDTH))


class _Two(nn.Module):
    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, str, Tensor]:
        return x * scale, "kept", x + scale


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.two = _Two()

    def forward(self, x: Tensor) -> Any:
        return self.two(x, scale=torch.ones_like(x))


class _ClearsAll(Controller):
    every_tensor = True

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Any:
        return None if output is None else output * 0


class _ClearsInputs(Controller):
    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Any:
        assert inputs is not None
        return inputs * 0, inputs * 0


class TestSeveralTensors:
    """A selection holds for every tensor that a hook changes, not for the first alone."""

    @pytest.mark.parametrize("selected", [{"rows": 0}, {"tokens": 1}, {"features": [2]}])
    def test_of_an_output(self, selected: dict[str, Any]) -> None:
        """A controller of every tensor changes the selected part of each."""
        model = tenterhook.attach(_Pair())
        plain = model(X)
        with model.steer("two", _ClearsAll(), **selected):
            first, text, second = model(X)
        part = torch.zeros_like(X, dtype=torch.bool)
        at = selected.get("rows", slice(None)), selected.get("tokens", slice(None))
        part[(*at, selected.get("features", slice(None)))] = True
        assert text == "kept"
        assert torch.equal(first, plain[0].masked_fill(part, 0))
        assert torch.equal(second, plain[2].masked_fill(part, 0))

    def test_of_an_item(self) -> None:
        """Of another part of the output, the part is selected from, and changed, alone."""
        model = tenterhook.attach(_Pair())
        plain = model(X)
        with model.steer("two", torch.neg, item=2, rows=0):
            first, _, second = model(X)
        assert torch.equal(first, plain[0])
        assert torch.equal(second[0], -plain[2][0])
        assert torch.equal(second[1:], plain[2][1:])

    def test_of_the_inputs(self) -> None:
        """A tuple of inputs, too, whether they were passed by position or by keyword."""
        model = tenterhook.attach(_Pair())
        plain = model(X)
        with model.steer("two", _ClearsInputs("pre_forward"), rows=1):
            first, _, second = model(X)
        assert torch.equal(second[0], plain[2][0])
        assert torch.equal(first[0], plain[0][0])
        assert not first[1].any()
        assert not second[1].any()


def test_a_copy_starts_without_selections(model: HookedModel) -> None:
    """A model that is copied while a selected scope is open keeps it; the copy has none."""
    with model.capture("first", rows=0), model.steer("second", torch.neg, tokens=0):
        steered = model(X)
        copied = copy.deepcopy(model.module)
        assert torch.equal(copied(X)[:, 1:], steered[:, 1:])
        assert not torch.equal(copied(X)[:, 0], steered[:, 0])
        tenterhook.assert_clean(copied)


def test_what_is_skipped_ends_in_one_full_stop() -> None:
    """A message that ends in a full stop gets no second one."""
    model = tenterhook.attach(nn.Sequential(nn.Identity()), on_error="warn")
    with (
        pytest.warns(HookWarning, match=r"\(1, 2\)\. Its result is skipped\.$"),
        model.steer("0", lambda t: t[:1], rows=0),
    ):
        model(torch.ones(3, 2))


def test_threads_each_select_their_own(model: HookedModel) -> None:
    """8 threads share a model, 50 turns each, and change a token each."""
    plain = model(X)
    wrong: list[object] = []
    start = threading.Barrier(8)

    def work(thread: int) -> None:
        start.wait(30)
        for turn in range(50):
            at, add = (thread + turn) % 3, float(thread + 1)
            try:
                with model.steer("second", lambda t, add=add: t + add, tokens=at):
                    out = model(X)
                expected = plain.clone()
                expected[:, at] += add
                if not torch.equal(out, expected):
                    wrong.append((thread, turn))
            except BaseException as error:  # noqa: BLE001 - counted
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_thousand_scopes_leave_nothing(model: HookedModel) -> None:
    """Opened and closed over and over, what they selected by is let go of."""

    def turn(times: int) -> None:
        for number in range(times):
            with (
                model.capture("*", inputs=True, tokens="last", missing="ignore"),
                model.steer("first", torch.neg, rows=0, missing="ignore"),
            ):
                if number % 50 == 0:
                    model(X)

    turn(100)
    grown = []
    tracemalloc.start()
    try:
        for _ in range(4):
            gc.collect()
            began, _ = tracemalloc.get_traced_memory()
            turn(300)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - began)
    finally:
        tracemalloc.stop()
    # Python's tables grow once in a while; what is left of each scope is left each time.
    assert min(grown) < 6_000
    tenterhook.assert_clean(model)


def test_a_torch_without_what_is_private_to_it() -> None:
    """What torch may take away without a word is done without."""
    code = """
import torch
from torch.utils import checkpoint

del checkpoint._StopRecomputationError
del torch._C._autograd._top_saved_tensors_default_hooks
del torch._C._current_graph_task_id

import tenterhook

model = tenterhook.attach(torch.nn.Sequential(torch.nn.Identity()))
with model.steer("0", torch.neg, tokens="last"), model.capture("0", tokens="last") as captured:
    model(torch.ones(1, 2, 3))
print(captured.last("0").tolist())
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert printed.strip() == "[[-1.0, -1.0, -1.0]]"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("selected", [{"rows": 0}, {"tokens": "last"}, {"features": [1]}])
def test_nested_tensors_are_refused(layout: torch.layout, selected: Any) -> None:
    """Rows of several lengths have no one mask; the way out is named."""
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=layout)
    model = tenterhook.attach(nn.Sequential(nn.Identity()))
    told = r"this is a nested tensor\. Capture it whole and choose among the rows that unbind"
    with pytest.raises(ValueError, match=told), model.capture("0", **selected):
        model(x)
    with pytest.raises(HookError, match=told), model.steer("0", torch.neg, **selected):
        model(x)
    tenterhook.assert_clean(model)
