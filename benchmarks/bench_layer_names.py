"""What does a scope cost under each spelling of its layers, and as the model grows?

A stack of blocks of 13 modules each, none of which is called: opening and closing a capture of
every block, and of one, from the second scope on; steering one block; registering a hook on every
block, first look-ups included. Models of 10 to 10,000 modules. Baseline: the same by dotted names.
CPU time of one thread.
"""

import sys

import torch
from _rounds import Variant, measure, print_machine, print_table
from torch import Tensor, nn

import tenterhook
from tenterhook_layer_activation import LayerActivationDetector


class Block(nn.Module):
    """Thirteen modules: four of attention, three of an MLP, norms, and what holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({name: nn.Identity() for name in "qkvo"})
        self.mlp = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity())
        self.norms = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.drop = nn.Identity()


class Stack(nn.Module):
    """So many blocks, in a module of their own as models of language have them."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(Block() for _ in range(blocks))


def same(tensor: Tensor) -> Tensor:
    return tensor


def one_size(blocks: int, *, rounds: int, calls: int) -> None:
    hooked = tenterhook.attach(Stack(blocks))
    all_layers = hooked.layers.list_layers()
    names = [f"model.layers.{n}" for n in range(blocks)]
    middle = blocks // 2

    def capturing(*layers: str | int) -> Variant:
        def run() -> None:
            with hooked.capture(*layers, missing="ignore"):
                pass

        return run

    def steering(layer: str) -> Variant:
        def run() -> None:
            with hooked.steer(layer, same, missing="ignore"):
                pass

        return run

    def registering(spellings: list[str]) -> Variant:
        def run() -> None:
            fresh = tenterhook.attach(Stack(blocks))
            for spelling in spellings:
                fresh.layers.register_hook(spelling, LayerActivationDetector(spelling))

        return run

    aliases = [f"layer_{n}" for n in range(blocks)]
    variants = {
        "capture all, names": capturing(*names),
        "capture all, layer_N": capturing(*aliases),
        "capture all, indices": capturing(*map(all_layers.index, names)),
        "capture all, a pattern": capturing("model.layers.*.mlp"),
        "capture one, its name": capturing(names[middle]),
        "capture one, layer_N": capturing(aliases[middle]),
        "capture one, an index": capturing(all_layers.index(names[middle])),
        "steer one, its name": steering(names[middle]),
        "steer one, layer_N": steering(aliases[middle]),
    }
    times = measure(variants, rounds=rounds, calls=calls)
    register = {
        "register all, names": registering(names),
        "register all, layer_N": registering(aliases),
    }
    times |= measure(register, rounds=max(rounds // 8, 1), calls=1)
    rows = {
        name: f"{name.partition(',')[0]}, {'its name' if ' one' in name else 'names'}"
        for name in times
    }
    title = f"Opening and closing a scope, {len(all_layers):,} modules, {blocks} blocks"
    print_table(title, times, rows, unit="us")


def main(quick: bool) -> None:
    torch.set_num_threads(1)
    print_machine()
    for blocks in (1, 8) if quick else (1, 8, 80, 770):
        one_size(blocks, rounds=1 if quick else 16, calls=1 if quick else 4)


if __name__ == "__main__":
    main("--quick" in sys.argv)
