"""Whatever is nested in whatever, and wherever it fails, the hooks of before are there after."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenterhook_hook_points import HookedRootModule, HookPoint, UnknownHookPoint

NAMES = ("hook_embed", "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.*.hook_*")


class Boom(Exception):
    """What hooks and bodies throw."""


def hook_of(kind: str) -> Any:
    """Return a hook that looks, replaces or throws."""

    def hook(tensor: Tensor, hook: HookPoint) -> Tensor | None:
        if kind == "throw":
            raise Boom
        return tensor * 1.5 if kind == "replace" else None

    return hook


entries = st.lists(
    st.tuples(
        st.sampled_from([*NAMES, "blocks.0.no_such"]),
        st.sampled_from(["look", "replace", "replace", "throw"]),
    ),
    max_size=2,
)
steps = st.recursive(
    st.fixed_dictionaries({"do": st.sampled_from(["run", "throw", "backward"])}),
    lambda inner: st.fixed_dictionaries(
        {
            "do": st.sampled_from(["hooks", "run_with_hooks", "run_with_cache", "grads", "add"]),
            "fwd": entries,
            "bwd": entries,
            "inside": st.lists(inner, max_size=2),
        }
    ),
    max_leaves=5,
)
attached = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["fwd", "bwd"]),
        st.booleans(),
        st.booleans(),
        st.sampled_from([None, 1, 2]),
    ),
    max_size=4,
)


def act(model: HookedRootModule, x: Tensor, step: dict[str, Any]) -> None:
    """Do a step and, inside what it opens or in a hook of what it runs, the steps inside it."""
    if step["do"] == "throw":
        raise Boom
    if step["do"] in ("run", "backward"):
        out = model(x, total=True)
        if step["do"] == "backward":
            out.backward()
        return
    fwd = [(name, hook_of(kind)) for name, kind in step["fwd"]]
    bwd = [(name, hook_of(kind)) for name, kind in step["bwd"]]

    running: list[bool] = []

    def inside(tensor: Any = None, hook: Any = None) -> None:
        if not running:  # a hook that runs the model would run itself
            running.append(True)
            try:
                for each in step["inside"]:
                    guarded(model, x, each)
            finally:
                running.clear()

    if step["do"] == "hooks":
        with model.hooks(fwd, bwd):
            inside()
    elif step["do"] == "run_with_hooks":
        model.run_with_hooks(x, fwd_hooks=[("hook_embed", inside), *fwd], bwd_hooks=bwd)
    elif step["do"] == "add":
        taken = model.add_hook("hook_embed", inside)
        try:
            model.run_with_cache(x)
        finally:
            for handle in taken:
                model.hook_dict["hook_embed"]._detach(handle)
    else:
        with model.hooks(fwd, bwd):
            model.run_with_cache(
                x,
                total=True,
                incl_bwd=step["do"] == "grads",
                names_filter=None if not step["fwd"] else step["fwd"][0][0],
            )
        inside()


def guarded(model: HookedRootModule, x: Tensor, step: dict[str, Any]) -> None:
    """Do a step; what it throws ends it, and what is attached is what was attached before."""
    before = everything(model)
    try:
        act(model, x, step)
    except (Boom, UnknownHookPoint):
        pass
    finally:
        assert everything(model) == before


def everything(model: HookedRootModule) -> Any:
    """Return all that is attached: our handles, and torch's own hooks."""
    return (
        {name: (p.fwd_hooks, p.bwd_hooks) for name, p in model.hook_dict.items()},
        {name: list(p._forward_hooks.items()) for name, p in model.hook_dict.items()},
        {name: list(p._forward_pre_hooks.items()) for name, p in model.hook_dict.items()},
        model.context_level,
    )


@settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.generate],  # shrinking nested steps takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(attached, st.lists(steps, min_size=1, max_size=3))
def test_what_was_there_is_there(
    model: HookedRootModule, attached: list[Any], sequence: list[dict[str, Any]]
) -> None:
    """Random nestings of every way to hook, with exceptions thrown anywhere."""
    model.reset_hooks(including_permanent=True)
    x = torch.ones(1, 2, 4, requires_grad=True)
    plain = model(x)
    for name, dir, permanent, prepend, level in attached:
        model.add_hook(
            name,
            hook_of("look"),
            dir=dir,
            is_permanent=permanent,
            prepend=prepend,
            level=level,
        )
    for step in sequence:
        guarded(model, x, step)
    assert torch.equal(model(x), plain)
    kept = [entry for entry in attached if entry[2]]
    model.reset_hooks()
    assert bool(model.list_hooks()) == bool(kept)
    assert all(h.is_permanent for handles in model.list_hooks().values() for h in handles)
    model.reset_hooks(including_permanent=True)
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in model.hook_points())


@given(
    st.lists(
        st.tuples(st.sampled_from(["fwd", "bwd"]), st.booleans(), st.integers(2, 5)), max_size=5
    )
)
def test_order_of_plain_and_prepended(hooks: list[tuple[str, bool, int]]) -> None:
    """Forward and backward hooks run in the order of their lists, and compose so."""
    point = HookPoint()
    ran: dict[str, list[int]] = {"fwd": [], "bwd": []}
    expected: dict[str, list[int]] = {"fwd": [], "bwd": []}
    for at, (dir, prepend, _) in enumerate(hooks):

        def hook(tensor: Tensor, hook: HookPoint, dir: Any = dir, at: int = at) -> Tensor:
            ran[dir].append(at)
            return tensor * hooks[at][2]

        point.add_hook(hook, dir=dir, prepend=prepend)
        expected[dir].insert(0 if prepend else len(expected[dir]), at)
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    out = point(x * 1)
    out.sum().backward()
    assert ran == expected
    product = {d: torch.tensor([h[2] for h in hooks if h[0] == d]).prod() for d in ran}
    assert out.item() == product["fwd"]
    assert x.grad is not None
    assert x.grad.item() == product["fwd"] * product["bwd"]


def test_the_property_can_fail(model: HookedRootModule) -> None:
    """A step that leaves a hook behind is found."""
    x = torch.ones(1, 2, 4)
    step = {"do": "run_with_hooks", "fwd": [], "bwd": [], "inside": []}
    guarded(model, x, step)
    with pytest.raises(AssertionError):
        guarded(_Leaky(model), x, step)  # type: ignore[arg-type]


class _Leaky:
    """A model whose `run_with_hooks` leaves a hook behind."""

    def __init__(self, model: HookedRootModule) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run_with_hooks(self, x: Tensor, **hooks: Any) -> None:
        """Run, and leave one."""
        self._model.run_with_hooks(x, **hooks, reset_hooks_end=False)
