"""Scopes of several threads and tasks on one model."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from tenterhook_hook_points import HookedRootModule, HookPoint

POST = "blocks.1.hook_resid_post"


def test_two_threads(model: HookedRootModule) -> None:
    """Edits, caches and gradients of each are its own, however they interleave."""
    expected = {at: model(torch.full((1, 3, 4), float(at)) * (at + 1)) for at in range(4)}
    start = threading.Barrier(4)

    def work(at: int) -> int:
        x, wrong = torch.full((1, 3, 4), float(at)), 0
        scale = [("hook_embed", lambda tensor, hook: tensor * (at + 1))]
        grads: list[Tensor] = []
        start.wait()
        for turn in range(60):
            if turn % 3 == 0:
                out = model.run_with_hooks(x, fwd_hooks=scale)
                wrong += not torch.equal(out, expected[at])
            elif turn % 3 == 1:
                with model.hooks(scale):
                    _, cache = model.run_with_cache(x, names_filter=["hook_embed", POST])
                wrong += not torch.equal(cache["hook_embed"], x * (at + 1))
                wrong += not torch.equal(cache[POST], expected[at])
            else:
                given = x.clone().requires_grad_()
                entry = (POST, lambda grad, hook: grads.append(grad * at))
                with model.hooks(bwd_hooks=[entry]):
                    (model(given) * (at + 1)).sum().backward()
                wrong += not torch.equal(grads[-1], torch.full_like(x, at * (at + 1)))
                model.reset_hooks()  # of this thread: the others' scopes stay
        return wrong + (len(grads) != 20)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 0
    assert model.list_hooks() == {}
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in model.hook_points())


def test_backward_hooks_of_others(model: HookedRootModule) -> None:
    """A thread's backward hook never runs for another thread that runs while it is attached."""

    def work(at: int) -> int:
        x, wrong = torch.ones((1, 3, 4), requires_grad=True), 0
        for _ in range(150):
            grads: list[Tensor] = []
            with model.hooks(bwd_hooks=[(POST, lambda grad, hook, own=grads: own.append(grad))]):
                model(x).sum().backward()
            wrong += len(grads) != 1
        return wrong

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(4))) == 0
    finally:
        sys.setswitchinterval(interval)


def test_a_scope_is_its_threads(model: HookedRootModule, x: Tensor) -> None:
    """Another thread's run neither sees it nor ends it; hooks that stay are everyone's."""
    plain = model(x)

    def other() -> tuple[Tensor, int]:
        model.reset_hooks(including_permanent=True, level=1)
        out = model(x)
        with model.hooks([("hook_embed", lambda tensor, hook: tensor)]):
            level = model.context_level
        return out, level

    with (
        ThreadPoolExecutor(1) as pool,
        model.hooks([("hook_embed", lambda tensor, hook: -tensor)]),
    ):
        out, level = pool.submit(other).result()
        assert torch.equal(out, plain)
        assert level == 1
        assert torch.equal(model(-x), plain)
        model.add_hook("hook_embed", lambda tensor, hook: -tensor)
        assert torch.equal(pool.submit(model, -x).result(), plain)


def test_kept_hooks_are_everyones(model: HookedRootModule, x: Tensor) -> None:
    """With `reset_hooks_end=False` they run in every thread."""
    plain = model(x)
    model.run_with_hooks(
        x, fwd_hooks=[("hook_embed", lambda tensor, hook: -tensor)], reset_hooks_end=False
    )
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(model, -x).result(), plain)


def test_two_tasks(model: HookedRootModule) -> None:
    """Tasks of one thread have scopes of their own, which others run in between."""

    async def work(at: int) -> bool:
        x = torch.full((1, 3, 4), float(at))
        seen: list[Tensor] = []

        def look(tensor: Tensor, hook: HookPoint) -> None:
            seen.append(tensor)

        with model.hooks([("hook_embed", look)]):
            for _ in range(3):
                await asyncio.sleep(0)
                model(x)
                _, cache = model.run_with_cache(x)
                await asyncio.sleep(0)
        return len(seen) == 6 and all(t is x for t in seen) and torch.equal(cache["hook_embed"], x)

    async def both() -> list[Any]:
        return await asyncio.gather(*(work(at) for at in range(3)))

    assert asyncio.run(both()) == [True] * 3
    assert model.list_hooks() == {}
