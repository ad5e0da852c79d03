"""Taps under `torch.compile`: nothing breaks the graph, nothing is compiled anew, all is right."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import tenterhook
from tenterhook import HookedModel, HookError
from tenterhook.errors import HookWarning
from tenterhook_taps import RoomFull, Taps

pytestmark = [  # of torch itself, which hides the first by other means than a filter
    pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script:DeprecationWarning"),
]

COMPILER = any(map(shutil.which, ("g++", "clang++", "c++", "cl")))
INDUCTOR = pytest.mark.skipif(not COMPILER, reason="inductor needs a C++ compiler")
# Some twenty seconds each, so in the whole run alone.
SLOW = [INDUCTOR, pytest.mark.matrix(sample=0)]
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=SLOW)]
each_backend = pytest.mark.parametrize("backend", BACKENDS)

ROWS, SEQ, WIDTH = 3, 5, 8
VECTOR = torch.linspace(-1, 1, WIDTH)
X = torch.linspace(-1, 1, ROWS * SEQ * WIDTH).reshape(ROWS, SEQ, WIDTH).clone()  # no view


class Block(nn.Module):
    """A block that returns a tuple, and whose output an operation in place follows."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return what the block makes of `x`, and nothing more."""
        hidden = F.relu(self.up(x), inplace=True)
        return x + self.down(hidden), None


class Net(nn.Module):
    """A stack of blocks."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.h = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(rows, seq, 4)`."""
        for block in self.h:
            x = block(x)[0]
        out: Tensor = self.head(x)
        return out


@pytest.fixture
def model() -> HookedModel:
    """A small model, the same every time."""
    torch.manual_seed(0)
    return tenterhook.attach(Net())


def compiled_from(model: HookedModel, backend: str = "eager", **settings: Any) -> Any:
    """Return the compiled module, of one graph."""
    return torch.compile(model.module, backend=backend, fullgraph=True, **settings)


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Fail where something is compiled, or a graph breaks, before the end of the block."""
    graphs = counters["stats"]["unique_graphs"]
    assert graphs
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


def close(one: Tensor, other: Tensor) -> bool:
    """Say whether two results are one, fused arithmetic aside."""
    return torch.allclose(one, other, atol=1e-5)


def changed_at_random(taps: Taps, generator: torch.Generator) -> None:
    """Change some of the taps in one of the ways that there are."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for tap in taps.values():
        layer = tap.layer_signature
        width = 2 * WIDTH if str(layer).endswith("up") else WIDTH
        match int(torch.randint(5, (), generator=generator)):
            case 0:
                tap.clear()
            case 1:
                tap.add(random(width), random(ROWS))
            case 2:
                tap.add(random(ROWS, width))
            case 3:
                tap.scale(random(ROWS))
            case 4:
                tap.scale(float(random(1)))


class TestOneGraph:
    """What is switched at a tap is not in the graph."""

    @each_backend
    def test_a_hundred_changes(self, model: HookedModel, backend: str) -> None:
        """Captures on and off, vectors, factors a row: one graph, and what it is uncompiled."""
        taps = model.taps("layer_0", "h.1.up", "h.2.down")
        compiled = compiled_from(model, backend)
        plain = compiled(X)
        assert close(plain, model(X))
        generator = torch.Generator().manual_seed(0)
        with compiled_once():
            for turn in range(100):
                changed_at_random(taps, generator)
                chosen = list(taps)[: turn % 4]
                if not chosen:
                    assert close(compiled(X), model(X))
                    continue
                with taps.capture(*chosen, max_tokens=30 if turn % 2 else None) as captured:
                    out = compiled(X)
                with taps.capture(*chosen) as expected:
                    assert close(out, model(X))
                for layer in chosen:
                    assert len(captured[layer]) == 1
                    assert close(captured.last(layer), expected.last(layer))
            taps.clear()
            assert torch.equal(compiled(X), plain)
        assert counters["stats"]["unique_graphs"] == 1

    @pytest.mark.parametrize("backend", BACKENDS[:2])
    def test_as_scopes(self, model: HookedModel, backend: str) -> None:
        """The results are those of scopes on the model itself."""
        taps = model.taps("h.0", "h.1")
        compiled = compiled_from(model, backend)
        with taps["h.0"].add(VECTOR, 2.0), taps.capture("h.1") as captured:
            out = compiled(X)
        with model.steer("h.0", lambda x: x + 2 * VECTOR), model.capture("h.1") as expected:
            assert close(out, model(X))
        assert close(captured.last("h.1"), expected.last("h.1"))

    @each_backend
    def test_gradients(self, model: HookedModel, backend: str) -> None:
        """Gradients flow through taps, whose factors change from step to step."""
        taps = model.taps("h.0", "h.1.up")
        compiled = compiled_from(model, backend)
        compiled(X.clone().requires_grad_()).sum().backward()
        generator = torch.Generator().manual_seed(0)
        with compiled_once():
            for _ in range(10):
                changed_at_random(taps, generator)
                gradients = []
                for run in (compiled, model):
                    model.module.zero_grad()
                    x = X.clone().requires_grad_()
                    (run(x) ** 2).mean().backward()
                    assert x.grad is not None
                    gradients.append([x.grad, *(p.grad for p in model.module.parameters())])
                for one, other in zip(*gradients, strict=True):
                    assert one is not None
                    assert other is not None
                    assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)

    @each_backend
    def test_a_backward_runs_no_tap(self, model: HookedModel, backend: str) -> None:
        """A call is captured once, its backward not."""
        taps = model.taps("h.0", "h.1.up")
        compiled = compiled_from(model, backend)
        with taps.capture() as captured:
            compiled(X).sum().backward()
        assert {len(calls) for calls in captured.values()} == {1}

    @pytest.mark.parametrize("backend", BACKENDS[:2])
    def test_shapes(self, model: HookedModel, backend: str) -> None:
        """Batch and length may change: what torch compiles for that serves all changes."""
        taps = model.taps("h.0", "h.1.up")
        compiled = compiled_from(model, backend, dynamic=True)
        with taps.capture() as captured:
            compiled(X)
        with compiled_once(), taps["h.0"].add(VECTOR):
            for rows, seq in ((2, 3), (4, 5), (3, 9), (7, 2)):
                x = torch.randn(rows, seq, WIDTH)
                with taps["h.1.up"].scale(torch.arange(rows)), taps.capture() as captured:
                    assert close(compiled(x), model(x))
                assert captured.last("h.0").shape == (rows, seq, WIDTH)

    @each_backend
    def test_every_call_counts(self, backend: str) -> None:
        """A layer whose result nobody uses is captured, and one that is called twice, twice."""

        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unused, self.twice = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

            def forward(self, x: Tensor) -> Tensor:
                self.unused(x)
                out: Tensor = self.twice(x) + self.twice(x)
                return out

        model = tenterhook.attach(Odd())
        taps = model.taps("unused", "twice")
        compiled = compiled_from(model, backend)
        for context in (contextlib.nullcontext(), torch.no_grad(), torch.inference_mode()):
            with context, taps.capture() as captured:
                compiled(X)
            assert [len(captured["unused"]), len(captured["twice"])] == [1, 2]
            assert close(captured.last("unused"), model.module.get_submodule("unused")(X))

    def test_in_place(self, model: HookedModel) -> None:
        """`module.compile()` and blocks that are compiled alone take taps as well."""
        taps = model.taps("h.*.up", "head")
        for block in model.module.get_submodule("h").children():
            block.compile(backend="aot_eager", fullgraph=True)
        uncompiled = Net()
        uncompiled.load_state_dict(model.module.state_dict())
        with taps["h.1.up"].scale(0.0), taps.capture() as captured:
            out = model(X)
        other = tenterhook.attach(uncompiled)
        with other.steer("h.1.up", lambda x: 0 * x):
            assert close(out, other(X))
        assert all(len(calls) == 1 for calls in captured.values())

    def test_blocks_share_a_graph(self) -> None:
        """Blocks of a kind that are compiled alone have one graph, taps in all of them included."""
        model = tenterhook.attach(Net(depth=12))
        taps = model.taps("h.*.up")
        for block in model.module.get_submodule("h").children():
            block.compile(backend="eager", fullgraph=True)
        x = X.clone().requires_grad_()  # as what the other blocks are given
        model(x)
        assert counters["stats"]["unique_graphs"] == 1
        with compiled_once(), taps["h.11.up"].add(torch.ones(2 * WIDTH)), taps.capture() as kept:
            model(x)
        assert not torch.equal(kept.last("h.0.up"), kept.last("h.1.up"))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtypes(self, model: HookedModel, dtype: torch.dtype) -> None:
        """In the model's dtype, bit for bit what it is uncompiled."""
        model.module.to(dtype)
        taps = model.taps("h.0")
        compiled = compiled_from(model, "aot_eager")
        plain = compiled(X.to(dtype))
        with taps["h.0"].add(VECTOR, torch.tensor([0.1, 0.2, 0.3])), taps.capture() as captured:
            out = compiled(X.to(dtype))
            assert torch.equal(out, model(X.to(dtype)))
        assert captured.last("h.0").dtype is dtype
        assert torch.equal(compiled(X.to(dtype)), plain)

    def test_autocast(self, model: HookedModel) -> None:
        """Under autocast as well."""
        taps = model.taps("h.0.up", "h.1")
        compiled = compiled_from(model, "aot_eager")
        with (
            torch.autocast("cpu", torch.bfloat16),
            taps["h.0.up"].scale(2),
            taps["h.1"].add(VECTOR),
        ):
            assert torch.allclose(compiled(X).float(), model(X).float(), atol=0.05)


class TestWhen:
    """Taps that come or go after compiling."""

    @pytest.mark.parametrize("backend", BACKENDS[:2])
    def test_placed_later(self, model: HookedModel, backend: str) -> None:
        """They are compiled in at the next call, once."""
        compiled = compiled_from(model, backend)
        plain = compiled(X)
        taps = model.taps("h.0")
        assert close(compiled(X), plain)
        with compiled_once():
            for number in range(10):
                with taps["h.0"].add(VECTOR, number), taps.capture() as captured:
                    assert close(compiled(X), model(X))
                assert len(captured["h.0"]) == 2

    def test_removed(self, model: HookedModel) -> None:
        """Compiled code does nothing at taps that are gone."""
        plain = model(X)
        taps = model.taps("h.0", "h.1")
        compiled = compiled_from(model)
        taps["h.0"].add(VECTOR)
        assert not close(compiled(X), plain)
        taps.remove()
        assert close(compiled(X), plain)
        tenterhook.assert_clean(model)

    def test_exported_graphs_of_removed_taps(self, model: HookedModel) -> None:
        """A graph that somebody holds leaves activations alone once the taps are gone."""
        graphs: list[Any] = []

        def keeps(graph: Any, inputs: Any) -> Any:
            graphs.append((graph, inputs))
            return graph.forward

        plain = model(X)
        taps = model.taps("h.0")
        torch.compile(model.module, backend=keeps, fullgraph=True)(X)
        ((graph, inputs),) = graphs
        taps["h.0"].add(VECTOR)
        assert not close(graph(*inputs)[0], plain)
        taps.remove()
        assert close(graph(*inputs)[0], plain)

    def test_other_models(self, model: HookedModel) -> None:
        """Taps on another model of other classes have nothing of this one compiled anew."""
        taps = model.taps("h.0")
        other = tenterhook.attach(nn.Sequential(nn.LayerNorm(WIDTH), nn.Identity()))
        others = other.taps("0", "1")
        compiled = compiled_from(model)
        compiled(X)
        with compiled_once(), others.capture() as captured, taps["h.0"].add(VECTOR):
            other(X)
            assert close(compiled(X), model(X))
        assert len(captured["1"]) == 1


class TestErrors:
    """Errors come out of compiled code as out of the model itself, and leave it usable."""

    @each_backend
    def test_does_not_fit(self, model: HookedModel, backend: str) -> None:
        """The layer and the way out are named, and the next call works."""
        taps = model.taps("h.0")
        compiled = compiled_from(model, backend)
        plain = compiled(X)
        with taps["h.0"].scale(torch.ones(4)):
            with pytest.raises(HookError, match=r"Layer 'h\.0': Tap.* 4 rows.*has 3") as caught:
                compiled(X)
            assert caught.value.layer_signature == "h.0"
        with taps.capture(max_tokens=20) as captured:
            compiled(X)
            with pytest.raises(HookError, match="max_tokens=20") as full:
                compiled(X)
        assert isinstance(full.value.original_error, RoomFull)
        assert len(captured["h.0"]) == 1
        with compiled_once():
            assert torch.equal(compiled(X), plain)

    def test_never_ran(self, model: HookedModel) -> None:
        """A capture in which the compiled model did not run says so."""
        taps = model.taps("h.0")
        compiled = compiled_from(model)
        compiled(X)
        with pytest.warns(HookWarning, match=r"saw no call at 'h\.0'"), taps.capture():
            pass


def a_gpt2(**settings: Any) -> GPT2LMHeadModel:
    """Return a small GPT-2, the same every time."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=32, use_cache=False, **settings
    )
    made: GPT2LMHeadModel = GPT2LMHeadModel(config).train(False)
    return made


class TestTransformers:
    """A model of transformers, by standard names."""

    @each_backend
    def test_gpt2(self, backend: str) -> None:
        """Steered and captured in one graph, with a mask, as uncompiled."""
        model = tenterhook.attach(a_gpt2())
        taps = model.taps("resid_post.*", "attn_out.1", "mlp_out.1")
        assert len(taps) == 4
        ids, mask = torch.arange(12).reshape(2, 6), torch.ones(2, 6, dtype=torch.long)
        mask[0, :2] = 0
        run = compiled_from(model, backend)
        with torch.no_grad():
            run(input_ids=ids, attention_mask=mask)
            with compiled_once():
                for turn in range(10):
                    vector = torch.randn(16)
                    with (
                        taps["resid_post.0"].add(vector, torch.tensor([turn, -1.0])),
                        taps["attn_out.1"].scale(torch.tensor([0.0, turn])),
                        taps.capture() as captured,
                    ):
                        out = run(input_ids=ids, attention_mask=mask).logits
                        same = model(input_ids=ids, attention_mask=mask).logits
                    assert torch.allclose(out, same, atol=1e-4)
                    for one, other in captured.values():
                        assert torch.allclose(one, other, atol=1e-4)
