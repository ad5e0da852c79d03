"""Backward hooks: what they see, in what order, and that they end."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook_hook_points import HookedRootModule, HookPoint


def times(factor: float) -> Any:
    """Return a hook that multiplies."""
    return lambda tensor, hook: tensor * factor


def leaf() -> Tensor:
    """Return a vector of ones that gradients flow into."""
    return torch.ones(3, requires_grad=True)


class TestOrder:
    """Backward hooks among themselves, and with forward hooks."""

    def test_compose(self) -> None:
        """Each sees what the one before returned."""
        point, given, seen = HookPoint(), leaf(), []
        point.add_hook(times(2), dir="bwd")
        point.add_hook(lambda grad, hook: seen.append(grad[0].item()), dir="bwd")
        point.add_hook(times(3), dir="bwd")
        point(given).sum().backward()
        assert seen == [2]
        assert given.grad is not None
        assert given.grad.tolist() == [6, 6, 6]

    def test_prepend(self) -> None:
        """Before the others, and first of the list."""
        point, seen = HookPoint(), []
        last = point.add_hook(lambda grad, hook: seen.append("last"), dir="bwd")
        first = point.add_hook(lambda grad, hook: seen.append("first"), dir="bwd", prepend=True)
        assert point.bwd_hooks == [first, last]
        point(leaf()).sum().backward()
        assert seen == ["first", "last"]

    @pytest.mark.parametrize("backward_first", [True, False])
    def test_a_returned_gradient_goes_through_forward_hooks(self, backward_first: bool) -> None:
        """It is with respect to what the point returned, whichever hook came first."""
        point, given, seen = HookPoint(), leaf(), []

        def replace(grad: Tensor, hook: HookPoint) -> Tensor:
            seen.append(grad.clone())
            return grad * 10

        hooks = [("bwd", replace), ("fwd", times(5))]
        for dir, hook in hooks if backward_first else reversed(hooks):
            point.add_hook(hook, dir=dir)
        (point(given) * 2).sum().backward()
        assert seen[0].tolist() == [2, 2, 2]
        assert given.grad is not None
        assert given.grad.tolist() == [100, 100, 100]

    def test_after_hooks_that_come_by_other_doors(self) -> None:
        """Torch's own hooks, and tenterhook's scopes and hooks, are part of the point too."""
        net = nn.Sequential(HookPoint())
        point, seen = net[0], []
        assert isinstance(point, HookPoint)
        point.add_hook(lambda grad, hook: seen.append(grad[0].item()), dir="bwd")
        point.register_forward_hook(lambda module, args, output: output * 3)
        with tenterhook.attach(net).steer("0", lambda x: x * 7):
            given = leaf()
            (net(given) * 2).sum().backward()
        assert seen == [2]
        assert given.grad is not None
        assert given.grad.tolist() == [42, 42, 42]

    def test_of_this_point_alone(self) -> None:
        """A tensor that three points return, and that is used beside, gives each its own part."""
        q, k, given = HookPoint(), HookPoint(), leaf()
        seen: dict[str, float] = {}
        q.add_hook(lambda grad, hook: seen.update(q=grad[0].item()), dir="bwd")
        k.add_hook(lambda grad, hook: seen.update(k=grad[0].item()), dir="bwd")
        x = given * 1
        (q(x) * 2 + k(x) * 3 + x).sum().backward()
        assert seen == {"q": 2, "k": 3}
        assert given.grad is not None
        assert given.grad.tolist() == [6, 6, 6]

    def test_torchs_own_door(self) -> None:
        """A full backward hook that somebody registers composes with ours, in order."""
        point, given, seen = HookPoint(), leaf(), []

        def torch_hook(module: Any, grad_input: Any, grad_output: Any) -> Any:
            seen.append((grad_input[0][0].item(), grad_output[0][0].item()))
            return (grad_input[0] * 5,)

        point.add_hook(times(2), dir="bwd")
        handle = point.register_full_backward_hook(torch_hook)
        point(given).sum().backward()
        assert seen == [(2, 2)]
        assert given.grad is not None
        assert given.grad.tolist() == [10, 10, 10]
        handle.remove()
        point.remove_hooks("bwd")
        point(given).sum().backward()
        assert len(seen) == 1
        assert not point._forward_hooks


class TestInPlace:
    """Edits in place, before and after."""

    def test_hook_and_module_that_write(self) -> None:
        """A forward hook and a later module may write in place; gradients are right."""
        point, given, seen = HookPoint(), leaf(), []

        def write(tensor: Tensor, hook: HookPoint) -> Tensor:
            tensor[0] = 0
            return tensor

        point.add_hook(write)
        point.add_hook(lambda grad, hook: seen.append(grad.tolist()), dir="bwd")
        out = nn.ReLU(inplace=True)(point(given * 2))
        (out * torch.arange(3.0)).sum().backward()
        assert seen == [[0, 1, 2]]
        assert given.grad is not None
        assert given.grad.tolist() == [0, 2, 4]

    def test_the_hook_changes_no_number(self) -> None:
        """With a hook that only looks, output and gradients are the same bits."""
        model = nn.Sequential(nn.Linear(3, 3), HookPoint(), nn.ReLU(inplace=True))
        x = torch.randn(5, 3)
        runs = []
        for dir in (None, "fwd", "bwd"):
            if dir is not None:
                model[1].add_hook(lambda tensor, hook: None, dir=dir)  # type: ignore[operator]
            model.zero_grad()
            out = model(x)
            out.square().sum().backward()
            runs.append((out, *(p.grad for p in model.parameters())))
        for run in runs[1:]:
            for mine, bare in zip(run, runs[0], strict=True):
                assert mine is not None
                assert bare is not None
                assert torch.equal(mine, bare)

    def test_hook_that_writes_to_the_gradient(self) -> None:
        """It counts at this point, returned or not, and not where else the gradient goes."""
        point, given, beside = HookPoint(), leaf(), leaf()
        point.add_hook(lambda grad, hook: None if grad.mul_(7) is not None else grad, dir="bwd")
        point.add_hook(lambda grad, hook: grad.add_(1), dir="bwd")
        (point(given) + beside * 1).sum().backward()
        assert given.grad is not None
        assert beside.grad is not None
        assert given.grad.tolist() == [8, 8, 8]
        assert beside.grad.tolist() == [1, 1, 1]


class TestEnd:
    """A hook that was taken off runs no more."""

    def test_removed_before_backward(self) -> None:
        """Neither by `remove_hooks`, nor by its torch handle, nor with its scope."""
        point, seen = HookPoint(), []
        gone = point.add_hook(lambda grad, hook: seen.append("gone"), dir="bwd")
        point.add_hook(lambda grad, hook: seen.append("removed"), dir="bwd")
        point.add_perma_hook(lambda grad, hook: seen.append("permanent"), dir="bwd")
        out = point(leaf()).sum()
        gone.hook.remove()
        point.remove_hooks("bwd")
        out.backward()
        assert seen == ["permanent"]

    def test_finished_scope(self, model: HookedRootModule, x: Tensor) -> None:
        """`backward` inside the scope is seen, one after it is not, nor in a later scope."""
        seen: list[str] = []
        entry = ("hook_embed", lambda grad, hook: seen.append(hook.name))
        x.requires_grad_()
        with model.hooks(bwd_hooks=[entry]):
            late = model(x, total=True)
            model(x, total=True).backward()
        assert seen == ["hook_embed"]
        with model.hooks(bwd_hooks=[entry]):
            late.backward()
        assert seen == ["hook_embed"]
        assert not any(p._forward_hooks or p._forward_pre_hooks for p in model.hook_points())

    def test_handles_taken_off_by_torch(self) -> None:
        """The point notices at its next call, and nothing is left on it."""
        point = HookPoint()
        point.add_hook(times(2), dir="bwd").hook.remove()
        assert not point.has_hooks("bwd")
        point(leaf())
        assert not point._forward_hooks
        assert not point._forward_pre_hooks

    def test_run_with_hooks_says_so(
        self, model: HookedRootModule, x: Tensor, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Backward hooks that end before any backward are worth a line in the log."""
        model.run_with_hooks(x, fwd_hooks=[("hook_embed", times(1))])
        assert not caplog.messages
        model.run_with_hooks(x, bwd_hooks=[("hook_embed", times(1))])
        assert "with model.hooks(bwd_hooks=...)" in caplog.text

    def test_after_torchs_hooks_were_cleared(self) -> None:
        """One that comes after somebody emptied torch's dictionaries runs."""
        point, seen = HookPoint(), []
        point.add_hook(times(1), dir="bwd")
        point._forward_hooks.clear()
        point._forward_pre_hooks.clear()
        point.add_hook(lambda grad, hook: seen.append(grad), dir="bwd")
        point(leaf()).sum().backward()
        assert len(seen) == 1

    def test_no_gradient(self) -> None:
        """Without gradients there is nothing to hook, and the tensor itself comes back."""
        point = HookPoint()
        point.add_hook(times(2), dir="bwd")
        x = torch.ones(3)
        assert point(x) is x
        with torch.no_grad():
            x.requires_grad_()
            assert point(x) is x

    def test_no_tensor(self) -> None:
        """What is no tensor passes through."""
        point = HookPoint()
        point.add_hook(times(2), dir="bwd")
        assert point("text") == "text"


class TestScale:
    """`backward_scale`."""

    def test_sum_alone(self) -> None:
        """What `sum` gives is scaled, in every spelling; the gradient itself is not."""
        point, given = HookPoint(), leaf()
        seen: dict[str, Any] = {}

        def look(grad: Tensor, hook: HookPoint) -> Tensor:
            seen["sums"] = grad.sum().item(), grad.sum(dim=0).item(), torch.sum(grad).item()
            seen["keyword"] = torch.sum(input=grad).item()
            seen["rest"] = grad.mean().item(), grad.tolist()
            seen["kinds"] = type(grad * 2), type(grad.sum())
            return grad

        point.backward_scale = 0.5
        point.add_hook(look, dir="bwd")
        point.add_hook(lambda grad, hook: grad * 3, dir="bwd")
        point(given).sum().backward()
        assert seen["sums"] == (1.5, 1.5, 1.5)
        assert seen["keyword"] == 1.5
        assert seen["rest"] == (1, [1, 1, 1])
        assert seen["kinds"] == (Tensor, Tensor)
        assert given.grad is not None
        assert type(given.grad) is Tensor
        assert given.grad.tolist() == [3, 3, 3]

    def test_one_is_plain(self) -> None:
        """By default the hook gets a plain tensor."""
        point, kinds = HookPoint(), []
        point.add_hook(lambda grad, hook: kinds.append(type(grad)), dir="bwd")
        point(leaf()).sum().backward()
        assert kinds == [Tensor]


def test_shape_of_a_returned_gradient() -> None:
    """A gradient of another shape is refused, by the point's name."""
    point = HookPoint()
    point.name = "hook_embed"
    point.add_hook(lambda grad, hook: grad[:1], dir="bwd")
    with pytest.raises(ValueError, match=r"returned \(1,\) for a gradient of \(3,\)") as caught:
        point(leaf()).sum().backward()
    assert "'hook_embed'" in caught.value.__notes__[0]


def test_gradient_in_a_tuple() -> None:
    """A tuple of one, as torch's own backward hooks return it, is what is in it."""
    point, given = HookPoint(), leaf()
    point.add_hook(lambda grad, hook: (grad * 3,), dir="bwd")
    point.add_hook(lambda grad, hook: (None,), dir="bwd")
    point(given).sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == [3, 3, 3]
    point.add_hook(lambda grad, hook: (grad, grad), dir="bwd")
    with pytest.raises(TypeError, match="returned a tuple"):
        point(leaf()).sum().backward()
