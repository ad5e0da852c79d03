"""What does a hooked call cost, against a plain torch hook that does the same?

48 trivial modules, all hooked, so that only the machinery is measured; a tensor of 4 x 8 floats.
Raw: a persistent `register_forward_hook` doing the same work. CPU time of one thread. Another bare
model stands beside the first, which is the noise of the figures.
"""

import gc
import sys
import threading
from asyncio import _get_running_loop
from typing import Any

import torch
from _rounds import measure, print_machine, print_table
from torch import Tensor, nn

import tenterhook
from tenterhook_function_controller import FunctionController
from tenterhook_layer_activation import LayerActivationDetector

MODULES = 48


class Same(nn.Module):
    """Returns its input: what is left is the cost of the call."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Stack(nn.Module):
    """`MODULES` trivial modules, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Same() for _ in range(MODULES))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def double(tensor: Tensor) -> Tensor:
    return tensor * 2.0


def raw_capture() -> Stack:
    model = Stack()
    for block in model.blocks:
        tensors: dict[str, Tensor] = {}
        facts: dict[str, tuple[int, ...]] = {}

        def keep(
            module: nn.Module,
            args: object,
            output: Tensor,
            t: dict[str, Tensor] = tensors,
            f: dict[str, tuple[int, ...]] = facts,
        ) -> None:
            t["activations"] = output.detach().clone()
            f["activations_shape"] = tuple(output.shape)

        block.register_forward_hook(keep)
    return model


def raw_lists() -> tuple[Stack, list[list[Tensor]]]:
    """Hooks that add to lists, as a scope's capture does; the caller empties them."""
    model, lists = Stack(), []
    for block in model.blocks:
        calls: list[Tensor] = []
        lists.append(calls)
        block.register_forward_hook(
            lambda m, a, out, calls=calls: calls.append(out.detach().clone())
        )
    return model, lists


class BareScope:
    """The least that a scope of one's own thread costs: no library around it.

    A hook put on each module and taken off again, that looks up whose scope is open and adds a
    copy to a list. What `capture` costs beyond this is ours; what this costs is Python's.
    """

    def __init__(self, model: Stack) -> None:
        self.here = threading.local()
        self.here.table = None
        self.puts: list[tuple[nn.Module, dict[int, Any], int]] = []
        for block in model.blocks:
            handle = block.register_forward_hook(self.hook)
            handle.remove()
            self.puts.append((block, block._forward_hooks, handle.id))

    def hook(self, module: nn.Module, args: object, output: Tensor) -> Any:
        table = self.here.table if _get_running_loop() is None else None
        if table is not None:
            table[module].append(output.detach().clone())

    def __enter__(self) -> dict[nn.Module, list[Tensor]]:
        table: dict[nn.Module, list[Tensor]] = {block: [] for block, _, _ in self.puts}
        self.here.table = table
        for _, hooks, key in self.puts:
            hooks[key] = self.hook
        return table

    def __exit__(self, *error: object) -> None:
        for _, hooks, key in self.puts:
            del hooks[key]
        self.here.table = None


class BareSteer(BareScope):
    """The least for a change: beside whose scope is open, whether the activation was written to."""

    def hook(self, module: nn.Module, args: object, output: Tensor) -> Any:
        if _get_running_loop() is not None or self.here.table is None:
            return None
        return watched_double(module, args, output)


def watched_double(module: nn.Module, args: object, output: Tensor) -> Tensor:
    """Double, and look whether that was done in place: what makes a write an error."""
    version = output._version
    new = double(output)
    if output._version != version:
        raise RuntimeError("written to in place")
    return new


def raw_edit(*, watched: bool = False) -> Stack:
    model = Stack()
    for block in model.blocks:
        block.register_forward_hook(
            watched_double if watched else lambda module, args, output: double(output)
        )
    return model


def detected() -> tuple[Stack, tenterhook.HookedModel]:
    model = Stack()
    hooked = tenterhook.attach(model)
    for name in hooked.layers.index.blocks():
        hooked.layers.register_hook(name, LayerActivationDetector(name))
    return model, hooked


def main(rounds: int, calls: int) -> None:
    torch.set_num_threads(1)
    x = torch.randn(4, 8)
    bare, again, captures, edits = Stack(), Stack(), raw_capture(), raw_edit()
    listing, lists = raw_lists()
    detecting, _ = detected()
    disabled, hooked = detected()
    hooked.layers.disable_all_hooks()
    controlling = tenterhook.attach(Stack())
    for name in controlling.layers.index.blocks():
        controlling.layers.register_hook(name, FunctionController(name, double))
    scoped = tenterhook.attach(Stack())
    names = scoped.layers.index.blocks()
    steered = tenterhook.attach(Stack())
    own = Stack()
    bare_scope = BareScope(own)
    watching, own_steered = raw_edit(watched=True), Stack()
    bare_steer = BareSteer(own_steered)

    def raw_each_time() -> None:
        kept: dict[str, list[Tensor]] = {name: [] for name in names}
        handles = [
            block.register_forward_hook(
                lambda module, args, output, into=into: into.append(output.detach().clone())
            )
            for block, into in zip(bare.blocks, kept.values(), strict=True)
        ]
        bare(x)
        for handle in handles:
            handle.remove()

    def raw_scope() -> None:
        listing(x)
        for calls in lists:
            calls.clear()

    def scope() -> None:
        with scoped.capture(*names):
            scoped.module(x)

    def scope_of_ones_own() -> None:
        with bare_scope:
            own(x)

    def steer_of_ones_own() -> None:
        with bare_steer:
            own_steered(x)

    def steer() -> None:
        with steered.steer("blocks.*", double):
            steered.module(x)

    variants = {
        "bare model": lambda: bare(x),
        "bare model, another": lambda: again(x),
        "bare model, attached": lambda: scoped.module(x),
        "disabled detectors": lambda: disabled(x),
        "raw hook, capture": lambda: captures(x),
        "registered detector": lambda: detecting(x),
        "raw hook, capture into lists": raw_scope,
        "scoped capture, set-up included": scope,
        "bare scope, no library around it": scope_of_ones_own,
        "raw capture, hooks put on each time": raw_each_time,
        "raw hook, edit": lambda: edits(x),
        "raw hook, edit, that looks for writes": lambda: watching(x),
        "registered controller": lambda: controlling.module(x),
        "scoped steer, set-up included": steer,
        "bare steering, no library around it": steer_of_ones_own,
    }
    gc.collect()
    gc.disable()
    times = measure(variants, rounds=rounds, calls=calls)
    print_machine()
    rows = dict.fromkeys(list(variants)[:4], "bare model")
    rows |= dict.fromkeys(list(variants)[4:6], "raw hook, capture")
    rows |= dict.fromkeys(list(variants)[6:10], "raw hook, capture into lists")
    rows |= dict.fromkeys(list(variants)[10:], "raw hook, edit")
    print_table(f"Cost of a hooked call ({MODULES} trivial modules)", times, rows, per=MODULES)


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    main(rounds=1 if quick else 40, calls=2 if quick else 20)
