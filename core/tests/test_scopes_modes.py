"""Captures of models that run in inference mode or in transforms of `torch.func`."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import tenterhook
from tenterhook import HookedModel


class _Frozen(nn.Module):
    """A part that runs in inference mode, whatever is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.line(x)
        return out


class _Copies(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


X = torch.linspace(-1, 1, 12).reshape(4, 3)


@pytest.fixture
def model() -> HookedModel:
    """A small net whose second layer runs in inference mode."""
    torch.manual_seed(0)
    return tenterhook.attach(nn.Sequential(nn.Linear(3, 3), _Frozen(), _Copies()))


@pytest.mark.parametrize("layers", [("0", "1", "2"), ("1", "0"), ("2", "1", "0")])
@pytest.mark.parametrize("modes", ["i", "p", "ip", "pi", "pip"])
def test_inference_mode_now_and_then(
    model: HookedModel, layers: tuple[str, ...], modes: str
) -> None:
    """Nothing that is captured is an inference tensor, whichever call or layer was one."""
    with torch.no_grad(), model.capture(*layers) as captured:
        for mode in modes:
            with torch.inference_mode(mode == "i"):
                model(X)
    for layer in layers:
        assert len(captured[layer]) == len(modes)
        assert not any(kept.is_inference() for kept in captured[layer])
        total = (captured.last(layer) * torch.ones(3, requires_grad=True)).sum()
        total.backward()  # type: ignore[no-untyped-call]


def test_lists_that_were_read_while_it_was_open(model: HookedModel) -> None:
    """A list that was taken from the open scope holds plain tensors when the scope is over."""
    with torch.inference_mode(), model.capture("2") as captured:
        model(X)
        calls = captured["2"]
        assert calls[0].is_inference()
        model(X)
    assert [kept.is_inference() for kept in calls] == [False, False]
    assert captured["2"] is calls


def test_read_inside_a_transform(model: HookedModel) -> None:
    """What is read before the transform is over is read right again after it."""
    found = []

    def run(x: Tensor) -> Tensor:
        with model.capture("0") as captured:
            out: Tensor = model(x)
        captured.last("0")
        found.append(captured)
        return out.sum()

    grad(run)(X)
    kept = found[0].last("0")
    assert not torch._C._functorch.is_functorch_wrapped_tensor(kept)
    assert torch.equal(kept, model.module.get_submodule("0")(X))


Run = Callable[[Callable[[Tensor], Tensor]], Any]
TRANSFORMS: dict[str, Run] = {
    "grad": lambda f: grad(lambda x: f(x).sum())(X),
    "grad of grad": lambda f: grad(lambda y: grad(lambda x: f(x).pow(3).sum())(y).sum())(X),
    "vmap": lambda f: vmap(f)(X),
    "vmap of another axis": lambda f: vmap(f, in_dims=1)(X.T.contiguous()),
    "vmap of grad": lambda f: vmap(grad(lambda x: f(x).sum()))(X),
    "vmap of vmap": lambda f: vmap(vmap(f))(X.reshape(2, 2, 3)),
    "vmap of vmap, other axes": lambda f: vmap(vmap(f, 1), 1)(X.reshape(2, 2, 3).permute(2, 0, 1)),
    "jacrev": lambda f: jacrev(lambda x: f(x).sum(0))(X),
    "jacfwd": lambda f: jacfwd(lambda x: f(x).sum(0))(X),
    "hessian": lambda f: hessian(lambda x: f(x).sum())(X),
    "jvp": lambda f: jvp(f, (X,), (X,)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    """What was captured inside is a plain tensor once the transform is over, and is saved."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    with tenterhook.attach(net).capture("0") as captured:
        TRANSFORMS[name](net)
    kept = captured.last("0")
    assert torch.allclose(kept.reshape(4, 5), net[0](X))
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    assert torch.equal(torch.load(file), kept)
    assert torch.tensor(kept.tolist()).shape == kept.shape


def test_inside_a_transform() -> None:
    """A scope that ends inside it has the tensors of the transform, which are differentiated."""
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
    model = tenterhook.attach(net)

    def squares(x: Tensor) -> Tensor:
        with model.capture("0", detach=False) as captured:
            model(x)
        return captured.last("0").pow(2).sum()

    x = X.clone().requires_grad_()
    net[0](x).pow(2).sum().backward()
    assert x.grad is not None
    assert torch.allclose(grad(squares)(X), x.grad)
