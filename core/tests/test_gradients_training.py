"""Gradients as people use them: vectors that learn, attribution patching, late backwards."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel
from tenterhook.hooks import Controller, Detector

SEQ, WIDTH = 3, 4


class _Block(nn.Module):
    """Mixes tokens and features and adds to the residual stream; returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(SEQ, SEQ)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH))

    def forward(self, x: Tensor) -> Any:
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(x), None


class _Net(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x)
        out: Tensor = self.head(x)
        return out


class _Steers(Controller, nn.Module):
    """A controller that holds a vector to train."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        Controller.__init__(self)
        self.vector = nn.Parameter(torch.zeros(WIDTH, dtype=torch.float64))

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output + self.vector


class _Keeps(Detector):
    def __init__(self) -> None:
        super().__init__("backward")
        self.seen: list[Tensor] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.seen.append(output.clone())


@pytest.fixture
def model() -> HookedModel:
    """A frozen model in double precision, so that differences can be small."""
    torch.manual_seed(0)
    return tenterhook.attach(_Net().double().requires_grad_(False))


def run_of(seed: int, batch: int = 2) -> Tensor:
    """Return random inputs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, SEQ, WIDTH, generator=generator, dtype=torch.float64)


def metric(out: Tensor) -> Tensor:
    """Return a number of the last token: how far one logit is above the other."""
    return (out[:, -1, 0] - out[:, -1, 1]).sum()


class TestTraining:
    @pytest.mark.parametrize("way", ["registered", "steer"])
    def test_steering_vector_learns(self, model: HookedModel, way: str) -> None:
        """A vector in a controller learns what another did, and it alone learns."""
        before = [p.clone() for p in model.module.parameters()]
        wanted = torch.tensor([0.7, -0.4, 0.2, 0.5], dtype=torch.float64)
        x, hook = run_of(1, batch=8), _Steers()
        with model.steer("blocks.0", lambda t: t + wanted):
            target = model(x)
        optimizer = torch.optim.Adam(hook.parameters(), 0.05)
        if way == "registered":
            model.layers.register_hook("blocks.0", hook)

        def step() -> float:
            optimizer.zero_grad()
            loss = ((model(x) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        losses = []
        for _ in range(150):
            if way == "registered":
                losses.append(step())
            else:
                with model.steer("blocks.0", hook):
                    losses.append(step())
        assert losses[-1] < losses[0] / 1000
        after = model.module.parameters()
        assert all(torch.equal(one, p) for one, p in zip(before, after, strict=True))

    def test_gradient_of_the_vector(self, model: HookedModel) -> None:
        """Its gradient is the sum over rows and tokens of the gradient at the layer."""
        hook, keeps, x = _Steers(), _Keeps(), run_of(1)
        with model.hooks(("blocks.0", hook), ("blocks.0", keeps)):
            metric(model(x)).backward()  # type: ignore[no-untyped-call]
        assert hook.vector.grad is not None
        assert torch.allclose(hook.vector.grad, keeps.seen[0].sum((0, 1)))

    def test_replaced_layer_learns(self, model: HookedModel) -> None:
        """A module that stands in for a layer is trained to do what the layer does."""
        x = run_of(2, batch=8)
        torch.manual_seed(1)
        stand_in = nn.Linear(WIDTH, 2).double()
        target = model(x)
        optimizer = torch.optim.Adam(stand_in.parameters(), 0.1)
        with model.replace("head", stand_in):
            for _ in range(120):
                optimizer.zero_grad()
                loss = ((model(x) - target) ** 2).mean()
                loss.backward()
                optimizer.step()
        assert loss.item() < 1e-3


class TestAttribution:
    """Attribution patching: (corrupted - clean) activation times the gradient of the clean run."""

    @pytest.mark.parametrize("layer", ["blocks.0", "blocks.1", "blocks.1.mlp.0"])
    def test_finite_differences(self, model: HookedModel, layer: str) -> None:
        """The sum per token is the slope of patching that token a small part of the way."""
        clean, corrupted = run_of(1, batch=1), run_of(2, batch=1)
        with model.capture(layer, detach=False) as captured:
            x = clean.clone().requires_grad_()
            out = metric(model(x))
        (gradient,) = torch.autograd.grad(out, captured.last(layer))
        with model.capture(layer) as other:
            model(corrupted)
        difference = other.last(layer) - captured.last(layer).detach()
        attribution = (difference * gradient).sum(-1)[0]

        small = 1e-6
        for token in range(SEQ):
            step = torch.zeros_like(difference)
            step[:, token] = small * difference[:, token]
            with model.steer(layer, partial(torch.add, other=step)):
                ahead = metric(model(clean))
            with model.steer(layer, partial(torch.sub, other=step)):
                behind = metric(model(clean))
            slope = (ahead - behind) / (2 * small)
            assert torch.allclose(slope, attribution[token], rtol=1e-5, atol=1e-8)

    def test_backward_hook_gives_the_same_gradient(self, model: HookedModel) -> None:
        """A backward detector and a capture in the graph agree."""
        keeps, x = _Keeps(), run_of(1).requires_grad_()
        with model.hooks(("blocks.0", keeps)), model.capture("blocks.0", detach=False) as captured:
            out = metric(model(x))
            (gradient,) = torch.autograd.grad(out, captured.last("blocks.0"))
        assert torch.allclose(keeps.seen[0], gradient)

    def test_integrated(self, model: HookedModel) -> None:
        """Along the whole way the gradients add up to the difference of the two runs."""
        clean, corrupted, steps = run_of(1), run_of(2), 200
        with model.capture("blocks.0") as captured:
            ends = [metric(model(x)) for x in (clean, corrupted)]
        start, end = captured["blocks.0"]
        total = torch.zeros((), dtype=torch.float64)
        for step in range(steps):
            at = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
            with model.steer("blocks.0", lambda t, at=at: at):
                metric(model(clean)).backward()  # type: ignore[no-untyped-call]
            assert at.grad is not None
            total += ((end - start) * at.grad).sum() / steps
        assert torch.allclose(total, ends[1] - ends[0], rtol=1e-3)


class TestLater:
    """Backward hooks of a scope are gone when it ends, also for a `backward()` called later."""

    def test_one_of_two_graphs(self, model: HookedModel) -> None:
        """Of two forwards in a scope, the backward inside sees the hook and the later one not."""
        keeps, x = _Keeps(), run_of(1).requires_grad_()
        with model.hooks(("blocks.0", keeps)):
            inside, later = metric(model(x)), metric(model(x))
            inside.backward()  # type: ignore[no-untyped-call]
        later.backward()  # type: ignore[no-untyped-call]
        assert len(keeps.seen) == 1

    def test_graph_that_is_kept(self, model: HookedModel) -> None:
        """A graph that is kept gives the plain gradient once the scope is over."""
        x = run_of(1).requires_grad_()
        with model.steer("blocks.0", lambda g: g * 5, hook_type="backward"):
            out = metric(model(x))
            (inside,) = torch.autograd.grad(out, x, retain_graph=True)
        (later,) = torch.autograd.grad(out, x)
        (plain,) = torch.autograd.grad(metric(model(x)), x)
        assert torch.allclose(inside, plain * 5)
        assert torch.equal(later, plain)

    def test_inner_scope_ended(self, model: HookedModel) -> None:
        """Of nested scopes, the one that is still open is heard."""
        inner, outer, x = _Keeps(), _Keeps(), run_of(1).requires_grad_()
        with model.hooks(("blocks.0", outer)):
            with model.hooks(("blocks.0", inner), missing="ignore"):
                out = metric(model(x))
            out.backward()  # type: ignore[no-untyped-call]
        assert (len(inner.seen), len(outer.seen)) == (0, 1)

    def test_capture_in_the_graph_stays(self, model: HookedModel) -> None:
        """What was captured in the graph serves gradients after the scope."""
        x = run_of(1).requires_grad_()
        with model.capture("blocks.0", "blocks.1", detach=False) as captured:
            out = metric(model(x))
        first, second = captured.last("blocks.0"), captured.last("blocks.1")
        grads = torch.autograd.grad(out, [first, second, x])
        assert all(bool(grad.any()) for grad in grads)
        tenterhook.assert_clean(model)
