"""What do hook points cost: idle, with no-op hooks, and when all of them are cached?

Idle: a point against an `nn.Identity`, 48 in a row. No-op hooks: 12 on the points of a GPT of 12
blocks (d_model 64, 4 x 16 tokens), put on once, and for each run; the same with nothing but 12
points in a row, where all that is measured is the machinery. Caching: every point of that GPT, and
of the row of 48; a dictionary filled by raw hooks, `cache[name] = output.detach().clone()`, put on
and taken off for each run as `run_with_cache` does, and put on once. CPU time of one thread; then
the memory that the cached tensors hold, against their own size.
"""

import gc
import sys
from collections.abc import Callable
from functools import partial

import torch
from _rounds import Variant, measure, print_machine, print_table
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook_hook_points import HookedRootModule, HookPoint
from tenterhook_hook_points.gpt import GPTConfig, HookedGPT

IDLE = 48
HOOKS = 12


class Row(HookedRootModule):
    """Points, or identities, and nothing else."""

    def __init__(self, length: int, kind: type[nn.Module]) -> None:
        super().__init__()
        self.points = nn.ModuleList(kind() for _ in range(length))
        self.setup()

    def forward(self, x: Tensor) -> Tensor:
        for point in self.points:
            x = point(x)
        return x


def no_op(tensor: Tensor, hook: HookPoint) -> None:
    return None


def raw_no_op(module: nn.Module, args: object, output: Tensor) -> None:
    return None


def gpt() -> HookedGPT:
    torch.manual_seed(0)
    sizes = GPTConfig(n_layer=12, n_head=4, n_embd=64, n_inner=256, n_positions=16, vocab_size=256)
    return HookedGPT(sizes)


def raw_cache(model: nn.Module, points: dict[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    cache: dict[str, Tensor] = {}
    handles = put_raw_cache(points, cache)
    model(x)
    for handle in handles:
        handle.remove()
    return cache


def put_raw_cache(points: dict[str, nn.Module], cache: dict[str, Tensor]) -> list[RemovableHandle]:
    def keeps(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            cache[name] = output.detach().clone()

        return keep

    return [point.register_forward_hook(keeps(name)) for name, point in points.items()]


def no_op_variants(
    model: HookedRootModule, raw: HookedRootModule, names: list[str], x: Tensor, of: str
) -> tuple[dict[str, Variant], dict[str, str]]:
    """Return variants of a model with no-op hooks at the named points, and their baselines."""
    pairs = [(name, no_op) for name in names]
    own, attached = raw, model
    for name in names:
        own.mod_dict[name].register_forward_hook(raw_no_op)
        attached.add_hook(name, no_op)
    scoped, each = (gpt(), gpt()) if isinstance(model, HookedGPT) else (Row(HOOKS, HookPoint),) * 2

    def raw_each() -> None:
        handles = [each.mod_dict[name].register_forward_hook(raw_no_op) for name in names]
        each(x)
        for handle in handles:
            handle.remove()

    variants: dict[str, Variant] = {
        f"raw hooks, {of}": lambda: own(x),
        f"no-op hooks, {of}": lambda: attached(x),
        f"raw hooks put on each time, {of}": raw_each,
        f"run_with_hooks, {of}": lambda: scoped.run_with_hooks(x, fwd_hooks=pairs),
    }
    raw_name, name, raw_each_name, scoped_name = variants
    return variants, {
        raw_name: raw_name,
        name: raw_name,
        raw_each_name: raw_each_name,
        scoped_name: raw_each_name,
    }


def main(rounds: int, calls: int) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    x, ids = torch.randn(4, 8), torch.randint(256, (4, 16))
    print_machine()
    gc.collect()
    gc.disable()

    identities, points = Row(IDLE, nn.Identity), Row(IDLE, HookPoint)
    times = measure(
        {"nn.Identity": lambda: identities(x), "idle HookPoint": lambda: points(x)},
        rounds=rounds * 3,
        calls=calls * 10,
    )
    rows = {"nn.Identity": "nn.Identity", "idle HookPoint": "nn.Identity"}
    print_table(f"{IDLE} in a row", times, rows, per=IDLE)

    in_row = [f"points.{at}" for at in range(HOOKS)]
    variants, rows = no_op_variants(
        Row(HOOKS, HookPoint), Row(HOOKS, nn.Identity), in_row, x, "row of 12"
    )
    times = measure(variants, rounds=rounds * 3, calls=calls * 10)
    print_table(f"{HOOKS} no-op hooks, {HOOKS} points in a row", times, rows)

    in_gpt = [f"blocks.{at}.hook_resid_post" for at in range(HOOKS)]
    variants, rows = no_op_variants(gpt(), gpt(), in_gpt, ids, "GPT")
    times = measure(variants, rounds=rounds, calls=calls)
    print_table(f"{HOOKS} no-op hooks, GPT of 12 blocks", times, rows)

    for of, make, given in (("GPT", gpt, ids), ("row of 48", lambda: Row(IDLE, HookPoint), x)):
        ours, once = make(), make()
        cache: dict[str, Tensor] = {}
        put_raw_cache(dict(once.hook_dict), cache)
        added = make()
        added.cache_all({})
        bare = f"raw hooks put on each time, {of}"
        kept = f"raw hooks put on once, {of}"
        ours_dict: dict[str, nn.Module] = dict(ours.hook_dict)
        times = measure(
            {
                bare: partial(raw_cache, ours, ours_dict, given),
                f"run_with_cache, {of}": partial(ours.run_with_cache, given),
                kept: partial(once, given),
                f"cache_all, {of}": partial(added, given),
            },
            rounds=rounds,
            calls=calls,
        )
        rows = {bare: bare, f"run_with_cache, {of}": bare, kept: kept, f"cache_all, {of}": kept}
        print_table(f"Caching all {len(ours_dict)} points, {of}", times, rows)

    _, held = gpt().run_with_cache(ids, pos_slice=-1)
    sizes = sum(tensor.nbytes for tensor in held.values())
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held.values()}
    print(f"\nMemory of a cache of the last position: {sum(storages.values()) / sizes:.3f} x its")
    print("tensors' size")


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    main(rounds=1 if quick else 30, calls=2 if quick else 10)
