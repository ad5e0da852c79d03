"""What does each trick of the hot path buy, against the plain way of doing the same?

48 trivial modules, as in `bench_hooked_call.py`; a tensor of 4 x 8 floats, CPU time of one thread.
Each trick is measured against core as it is with that one trick taken out, which looks into private
names: where they change, this changes. A trick that buys next to nothing here should go.
"""

import gc
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from _rounds import measure, print_machine, print_table
from bench_hooked_call import MODULES, Stack
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel
from tenterhook._dispatch.entries import Entry
from tenterhook._dispatch.sites import Site, site_of
from tenterhook.activations import activation_of, first_input, inputs_of
from tenterhook.hooks import Controller, Detector
from tenterhook.plugins import default_manager
from tenterhook.plugins import manager as plugins
from tenterhook.scopes import Scope
from tenterhook.scopes.plan import Opening, Plan

CALLS = 20


class Looks(Detector):
    """Does nothing: what is left is the cost of the call."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        pass


class Reads(Looks):
    """Promises not to write."""

    reads_only = True


class Keeps(Controller):
    """Changes nothing."""

    def modify_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        return None


def hooked(kind: type[Any], stands: Callable[[Site], Any] | None = None) -> Stack:
    """Return a model with a hook on each block, and `stands(site)` as torch's hook there."""
    stack = Stack()
    model = tenterhook.attach(stack)
    for block in model.layers.list_blocks():
        model.layers.register_hook(block, kind())
    if stands is not None:
        put(stack, stands)
    return stack


def put(stack: Stack, stands: Callable[[Site], Any]) -> None:
    for block in stack.blocks:
        site = site_of(block, "after")
        site.hooks[site.key] = stands(site)


def watched(site: Site) -> Callable[..., Any]:
    """Return what `Detect.after` does, without its short way for one tensor and no keywords."""
    entry: Entry = site.forward[0]

    def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = inputs_of(module, args, kwargs)
        tensors = activation_of(output), first_input(inputs)
        entry.watched(tensors, entry.observe, module, inputs, output)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        entry.fired = True
        entry._surfacing(look, module, args, kwargs, output)

    return after


def controlled(site: Site) -> Callable[..., Any]:
    """Return what `Control.after` does, without its short way."""
    entry: Any = site.forward[0]

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        entry.fired = True
        return entry._surfacing(entry._after, module, args, kwargs, output)

    return after


def in_scope(
    kind: Callable[[HookedModel], Scope], stands: Callable[[Site], Any] | None = None
) -> Callable[[], None]:
    """Return `CALLS` calls of a model in an open scope that is the only one at its sites."""
    stack = Stack()
    model = tenterhook.attach(stack)
    x = torch.randn(4, 8)

    def run() -> None:
        with kind(model):
            if stands is not None:
                put(stack, stands)
            for _ in range(CALLS):
                stack(x)

    return run


def capturing(model: HookedModel) -> Scope:
    return model.capture("blocks.*")


def steering(model: HookedModel) -> Scope:
    return model.steer("blocks.*", same)


def same(tensor: Tensor) -> Tensor:
    return tensor


def opening(
    kind: Callable[[HookedModel, tuple[str, ...]], Scope],
    *,
    every_time: Callable[[HookedModel], None] | None = None,
    **instead: Any,
) -> Callable[[], None]:
    """Return a scope that is opened and closed, with methods of `Plan` replaced."""
    model = tenterhook.attach(Stack())
    names = tuple(model.layers.list_blocks())
    before = {name: getattr(Plan, name) for name in instead}

    def run() -> None:
        for name, method in instead.items():
            setattr(Plan, name, method)
        if every_time is not None:
            every_time(model)
        with kind(model, names):
            pass
        for name, method in before.items():
            setattr(Plan, name, method)

    return run


def capture_all(model: HookedModel, names: tuple[str, ...]) -> Scope:
    return model.capture(*names, missing="ignore")


def hook_all(model: HookedModel, names: tuple[str, ...]) -> Scope:
    return model.steer("blocks.*", same, missing="ignore")


def openings(of: str, kind: Callable[..., Scope]) -> dict[str, Callable[[], None]]:
    take = Plan.take

    def without_installs(plan: Plan) -> Opening:
        taken = take(plan)
        taken.installs = None
        return taken

    def cleared(name: str) -> Callable[[HookedModel], None]:
        return lambda model: getattr(model.layers.index, name).clear()

    return {
        of: opening(kind),
        f"{of}, sites entered one by one": opening(kind, take=without_installs),
        f"{of}, what runs made anew": opening(kind, give_back=lambda _, opened: opened.let_go()),
        f"{of}, plan made anew": opening(kind, every_time=cleared("plans")),
        f"{of}, names looked up anew": opening(kind, every_time=cleared("_kept")),
    }


def main(rounds: int, calls: int) -> None:
    torch.set_num_threads(1)
    x = torch.randn(4, 8)
    manager = default_manager()
    models = {
        "detector": hooked(Looks),
        "detector, as one of several": hooked(Looks, lambda site: site.after_several),
        "detector, through `watched`": hooked(Looks, watched),
        "detector that reads only": hooked(Reads),
        "controller": hooked(Keeps),
        "controller, through `watched`": hooked(Keeps, controlled),
    }
    called = {name: partial(model, x) for name, model in models.items()}
    captured = {
        "capture, its recorder alone": in_scope(capturing),
        "capture, by `after_scoped`": in_scope(capturing, lambda site: site.after_scoped),
    }
    steered = {
        "steer, its part alone": in_scope(steering),
        "steer, by `after_scoped`": in_scope(steering, lambda site: site.after_scoped),
    }
    asked = {
        "plugins of a kind": lambda: manager.extensions("stores"),
        "plugins of a kind, decided anew": lambda: plugins._decide.__wrapped__(manager._plugins),
    }
    gc.collect()
    gc.disable()
    print_machine()
    with torch.no_grad():
        table("Calls", called, rounds, calls, MODULES)
        table("Calls in a capture", captured, rounds, max(1, calls // CALLS), MODULES * CALLS)
        table("Calls in a steer", steered, rounds, max(1, calls // CALLS), MODULES * CALLS)
        for of, kind in (("capture", capture_all), ("steer", hook_all)):
            title = f"A {of}, opened and closed"
            table(title, openings(of, kind), rounds, calls, MODULES)
        table("Names of plugins", asked, rounds, calls, 1)


def table(
    title: str, variants: Mapping[str, Callable[[], object]], rounds: int, calls: int, per: int
) -> None:
    base = next(iter(variants))
    rows = {name: "controller" if name.startswith("controller") else base for name in variants}
    print_table(title, measure(variants, rounds=rounds, calls=calls), rows, per=per)


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    main(rounds=1 if quick else 60, calls=2 if quick else 20)
