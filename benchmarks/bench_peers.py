"""What do other libraries' hooks cost on the same 48 trivial modules?

All modules hooked, so that only the machinery is measured; a tensor of 4 x 8 floats. Baselines:
the bare model, then a persistent `register_forward_hook` doing the same work, and the same hooks
put on and taken off for each call. Set-up is included wherever a peer's way of use includes it.
Every variant's result is checked against the raw hooks' first. CPU time of one thread.

The baukit-style `TraceDict` is written here from memory of what baukit's does, in a few lines, and
stands for that style of library, not for the package. nnsight and pyvene are measured where they
can be imported, and left out where they cannot. They import `torch._dynamo`, which makes a scope of
ours dearer for the whole process: bench_hooked_call.py has our own figures without it.
"""

import gc
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from _rounds import Variant, measure, print_machine, print_table
from bench_hooked_call import MODULES, Stack, double, raw_edit
from torch import Tensor, nn

import tenterhook
from tenterhook_function_controller import FunctionController
from tenterhook_layer_activation import LayerActivationDetector

NAMES = [f"blocks.{number}" for number in range(MODULES)]
Run = Callable[[], Any]


@contextmanager
def trace_dict(
    model: nn.Module, names: list[str], edit: Callable[[Tensor, str], Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Keep the output of each layer, or what `edit` makes of it, as baukit's `TraceDict` does."""
    kept: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def hook(name: str) -> Callable[..., Tensor]:
        def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            if edit is not None:
                output = edit(output, name)
            kept[name] = output.detach().clone()
            return output

        return keep

    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def raw(x: Tensor) -> tuple[Run, Run]:
    """Hooks that stay, into lists that the caller empties."""
    model = Stack()
    kept: list[list[Tensor]] = [[] for _ in NAMES]
    for block, into in zip(model.blocks, kept, strict=True):
        block.register_forward_hook(lambda m, a, out, into=into: into.append(out.detach().clone()))
    edited = raw_edit()

    def capture() -> list[Tensor]:
        model(x)
        seen = [calls[-1] for calls in kept]
        for calls in kept:
            calls.clear()
        return seen

    return capture, lambda: edited(x)


def raw_each_time(x: Tensor) -> tuple[Run, Run]:
    """The same hooks, put on and taken off for each call."""
    model = Stack()

    def capture() -> list[Tensor]:
        kept: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda m, a, out: kept.append(out.detach().clone()))
            for block in model.blocks
        ]
        model(x)
        for handle in handles:
            handle.remove()
        return kept

    def edit() -> Tensor:
        handles = [
            block.register_forward_hook(lambda m, a, out: double(out)) for block in model.blocks
        ]
        out: Tensor = model(x)
        for handle in handles:
            handle.remove()
        return out

    return capture, edit


def registered(x: Tensor) -> tuple[Run, Run]:
    """Ours, registered."""
    watched, changed = tenterhook.attach(Stack()), tenterhook.attach(Stack())
    detectors = [LayerActivationDetector(name) for name in NAMES]
    for name, detector in zip(NAMES, detectors, strict=True):
        watched.layers.register_hook(name, detector)
        changed.layers.register_hook(name, FunctionController(name, double))

    def capture() -> list[Any]:
        watched.module(x)
        return [detector.get_captured() for detector in detectors]

    return capture, lambda: changed.module(x)


def scoped(x: Tensor) -> tuple[Run, Run]:
    """Ours, in a scope for each call."""
    model = tenterhook.attach(Stack())

    def capture() -> list[Tensor]:
        with model.capture(*NAMES) as captured:
            model.module(x)
        return [calls[-1] for calls in captured.values()]

    def edit() -> Any:
        with model.steer("blocks.*", double):
            return model.module(x)

    return capture, edit


def baukit_style(x: Tensor) -> tuple[Run, Run]:
    """A `TraceDict` for each call."""
    model = Stack()

    def capture() -> list[Tensor]:
        with trace_dict(model, NAMES) as kept:
            model(x)
        return list(kept.values())

    def edit() -> Tensor:
        with trace_dict(model, NAMES, edit=lambda out, name: double(out)):
            out: Tensor = model(x)
        return out

    return capture, edit


def nnsight(x: Tensor) -> tuple[Run, Run]:
    """A trace for each call."""
    model = importlib.import_module("nnsight").NNsight(Stack())

    def capture() -> list[Tensor]:
        with model.trace(x) as tracer:
            cache = tracer.cache()
        return [cache[f"model.blocks.{number}"].output for number in range(MODULES)]

    def edit() -> Tensor:
        with model.trace(x):
            for block in model.blocks:
                block.output = block.output * 2.0
            out = model.output.save()
        found: Tensor = out
        return found

    return capture, edit


class _Config:
    """What pyvene asks a model's config for."""

    hidden_size = 8

    def to_dict(self) -> dict[str, Any]:
        return {}


def pyvene(x: Tensor) -> tuple[Run, Run]:
    """A call of an intervenable model each; on a copy of the input, which its edits write to."""
    pv: Any = importlib.import_module("pyvene")
    kept: list[Tensor] = []

    def keep(base: Tensor, *_: Any, **__: Any) -> Tensor:
        kept.append(base.detach().clone())
        return base

    def times_two(base: Tensor, *_: Any, **__: Any) -> Tensor:
        return double(base)

    def of(change: Callable[..., Tensor]) -> Any:
        model: Any = Stack()
        model.config = _Config()
        components = [f"blocks[{number}].output" for number in range(MODULES)]
        return pv.IntervenableModel(
            [{"component": component, "intervention": change} for component in components], model
        )

    watching, editing = of(keep), of(times_two)

    def capture() -> list[Tensor]:
        kept.clear()
        watching({"x": x.clone()})
        return list(kept)

    def edit() -> Tensor:
        _, out = editing({"x": x.clone()})
        found: Tensor = out
        return found

    return capture, edit


WAYS: dict[str, Callable[[Tensor], tuple[Run, Run]]] = {
    "raw hook": raw,
    "raw hook, put on each time": raw_each_time,
    "tenterhook, registered": registered,
    "tenterhook, scoped": scoped,
    "baukit-style TraceDict": baukit_style,
    "nnsight": nnsight,
    "pyvene": pyvene,
}


def variants(x: Tensor) -> dict[str, Variant]:
    """Return what can run here, each checked against the raw hooks; say what is left out."""
    found: dict[str, Variant] = {"bare model": (lambda bare: lambda: bare(x))(Stack())}
    wanted = {"capture": [x] * MODULES, "edit": [raw_edit()(x)]}
    for name, make in WAYS.items():
        try:
            pair = dict(zip(("capture", "edit"), make(x), strict=True))
        except Exception as error:  # noqa: BLE001 - a peer that does not import or start
            print(f"left out: {name} ({type(error).__name__}: {str(error)[:80]})")
            continue
        for what, run in pair.items():
            try:
                result = run()
            except Exception as error:  # noqa: BLE001 - a peer that has changed
                print(f"left out: {name}, {what} ({type(error).__name__}: {str(error)[:80]})")
                continue
            results = result if isinstance(result, list) else [result]
            right = len(results) == len(wanted[what]) and all(
                torch.equal(one.reshape(-1), other.reshape(-1))
                for one, other in zip(results, wanted[what], strict=True)
            )
            if right:
                found[f"{name}, {what}"] = run
            else:
                print(f"left out: {name}, {what} (its result is not the raw hooks')")
    return found


def main(rounds: int, calls: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # peers'
    runs = variants(torch.randn(4, 8))
    gc.collect()
    gc.disable()
    times = measure(runs, rounds=rounds, calls=calls)
    print_machine()
    for what in ("capture", "edit"):
        base = f"raw hook, {what}"
        rows = {"bare model": base} | {n: base for n in runs if n.endswith(f", {what}")}
        print_table(f"{what.capitalize()} ({MODULES} trivial modules)", times, rows, per=MODULES)


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    main(rounds=1 if quick else 20, calls=2 if quick else 10)
