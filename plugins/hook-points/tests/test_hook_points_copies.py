"""Copies and pickles of models whose points have hooks."""

import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook.hooks import HookWarning
from tenterhook_hook_points import HookedRootModule, HookPoint


def by_pickle(model: Any) -> Any:
    """Pickle and load."""
    return pickle.loads(pickle.dumps(model))


def by_torch(model: Any) -> Any:
    """Save whole and load."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, by_pickle, by_torch],
)


def double(tensor: Tensor, hook: HookPoint) -> Tensor:
    """Replace the tensor."""
    return tensor * 2


def plus_one(tensor: Tensor, hook: HookPoint) -> Tensor:
    """Replace the tensor."""
    return tensor + 1


def scaled(tensor: Tensor, hook: HookPoint, by: Any) -> Tensor:
    """Replace the tensor, and leave word of it."""
    hook.ctx["stood for"] = hook.name
    new: Tensor = tensor * by
    return new


@COPIES
@pytest.mark.filterwarnings("ignore:A pickle of hook point:tenterhook.hooks.HookWarning")
def test_a_copy_is_the_model(
    copied: Callable[[Any], Any], model: HookedRootModule, x: Tensor
) -> None:
    """Names, points and numbers are those of the original; it has caches and scopes of its own."""
    model.add_hook("hook_embed", lambda tensor, hook: None)
    model.add_hook("hook_embed", lambda grad, hook: None, dir="bwd")
    model.run_with_cache(x)
    with model.hooks([("hook_embed", double)], [("hook_embed", double)]):
        other = copied(model)
    assert list(other.hook_dict) == list(model.hook_dict)
    assert all(other.get_submodule(name) is point for name, point in other.hook_dict.items())
    assert not set(other.hook_points()) & set(model.hook_points())
    assert torch.equal(other(x), model(x))
    assert other.context_level == 0
    _, cache = other.run_with_cache(x)
    assert sorted(cache) == sorted(model.hook_dict)
    before = model.list_hooks()
    other.add_hook(None, double)
    other.reset_hooks(including_permanent=True)
    assert model.list_hooks() == before
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in other.hook_points())
    edited = other.run_with_hooks(x, fwd_hooks=[("hook_embed", double)])
    assert torch.equal(edited, model(x * 2))


def test_hooks_come_along_in_a_deep_copy(model: HookedRootModule, x: Tensor) -> None:
    """With their order and settings; they are given the copy's point, and leave with it."""
    seen: list[HookPoint] = []
    point = model.hook_dict["hook_embed"]
    point.add_hook(lambda tensor, hook: seen.append(hook), level=2, alias_names=["a"])
    point.add_perma_hook(double)
    point.add_hook(lambda tensor, hook: tensor + 1, prepend=True)
    point.add_hook(double, dir="bwd")
    other = copy.deepcopy(model)
    mine = other.hook_dict["hook_embed"]

    assert repr(mine) == repr(point)
    assert [h.user_hook for h in mine.fwd_hooks] == [h.user_hook for h in point.fwd_hooks]
    assert [(h.is_permanent, h.context_level) for h in mine.fwd_hooks] == [
        *((False, None), (False, 2), (True, None))
    ]
    x = x.requires_grad_()
    assert torch.equal(mine(x), (x + 1) * 2)
    seen[0].ctx["ran"] = True
    assert mine.ctx == {"ran": True}
    assert point.ctx == {}
    assert seen[0].name == "a"
    mine(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 4))
    mine.remove_hooks("both", including_permanent=True)
    assert mine(x) is x
    assert len(point.fwd_hooks) == 3
    assert len(point.bwd_hooks) == 1


class Counts(HookedRootModule):
    """Has a hook that is a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_x = HookPoint()
        self.seen = 0
        self.setup()
        self.add_perma_hook("hook_x", self.count)

    def count(self, tensor: Tensor, hook: HookPoint) -> None:
        """Count a call."""
        self.seen += 1

    def forward(self, x: Tensor) -> Any:
        """Return `x`."""
        return self.hook_x(x)


@COPIES
def test_methods_of_what_is_copied(copied: Callable[[Any], Any], x: Tensor) -> None:
    """A hook that is a method of the model is the copy's method on the copy."""
    model = Counts()
    other = copied(model)
    other(x)
    assert (model.seen, other.seen) == (0, 1)


def test_huge_arguments_are_not_copied(model: HookedRootModule) -> None:
    """A hook's arguments are shared by a deep copy."""

    class Huge:
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

        def __call__(self, tensor: Tensor, hook: HookPoint) -> None:
            return None

    (handle,) = model.add_hook("hook_embed", Huge())
    other = copy.deepcopy(model)
    assert other.list_hooks()["hook_embed"][0].user_hook is handle.user_hook


@pytest.mark.parametrize("again", [by_pickle, by_torch])
def test_hooks_that_pickle_come_along(
    again: Callable[[Any], Any], model: HookedRootModule, x: Tensor
) -> None:
    """With their order and settings, as in a deep copy; those of open scopes stay behind."""
    point = model.hook_dict["hook_embed"]
    point.add_hook(functools.partial(scaled, by=torch.tensor(3.0)), level=2, alias_names=["a"])
    point.add_perma_hook(double)
    point.add_hook(plus_one, prepend=True)
    point.add_hook(double, dir="bwd")
    with model.hooks([(None, lambda tensor, hook: None)], [("hook_embed", double)]):
        other = again(model)
    mine = other.hook_dict["hook_embed"]

    assert repr(mine) == repr(point)
    assert list(other.list_hooks()) == ["hook_embed"]
    assert [h.user_hook for h in mine.fwd_hooks][::2] == [plus_one, double]
    assert [(h.is_permanent, h.context_level) for h in mine.fwd_hooks] == [
        *((False, None), (False, 2), (True, None))
    ]
    x = x.requires_grad_()
    assert torch.equal(mine(x), (x + 1) * 3 * 2)
    mine(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 12))
    assert (mine.ctx, point.ctx) == ({"stood for": "a"}, {})
    mine.remove_hooks("both", including_permanent=True)
    assert mine(x) is x
    assert len(point.fwd_hooks) == 3


def test_a_pickle_tells_of_hooks_it_leaves_out(model: HookedRootModule) -> None:
    """Each point names those of its hooks that cannot be pickled; the others are there."""
    point = model.hook_dict["hook_embed"]
    point.add_hook(lambda tensor, hook: tensor)
    point.add_hook(double)
    point.add_perma_hook(functools.partial(scaled, by=lambda: 1), dir="bwd")
    told = (
        r"A pickle of hook point 'hook_embed' leaves out 2 hooks that cannot be pickled: "
        r"test_a_pickle_\w+\.<locals>\.<lambda>, partial\. Attach .*or give functions of a"
    )
    with pytest.warns(HookWarning, match=told) as warned:
        other = pickle.loads(pickle.dumps(model))
    assert len(warned) == 1
    (handle,) = other.list_hooks()["hook_embed"]
    assert handle.user_hook is double


def test_a_pickle_keeps_what_torch_attached(model: HookedRootModule) -> None:
    """Hooks that came by torch's own doors are kept."""
    point = model.hook_dict["hook_embed"]
    point.register_forward_hook(torch_hook)
    point.register_full_backward_hook(torch_hook)
    other = pickle.loads(pickle.dumps(model))
    assert other.list_hooks() == {}
    mine = other.hook_dict["hook_embed"]
    assert [hook for hook in mine._forward_hooks.values() if hook is torch_hook] == [torch_hook]
    calls.clear()
    mine(torch.ones(2, requires_grad=True)).sum().backward()
    assert calls == ["ran", "ran"]


calls: list[str] = []


def torch_hook(module: Any, given: Any, output: Any) -> None:
    """Count a call."""
    calls.append("ran")


def test_names_of_weights(model: HookedRootModule) -> None:
    """The weights of a hooked model have no more names than it has."""
    model.add_hook(None, lambda tensor, hook: None)
    assert all("linear" in name for name in model.state_dict())
