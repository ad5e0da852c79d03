"""The layers of a module, by every name that users have for them.

A layer is a module at a dotted name, as `named_modules` prints it, or the whole model seen
before (`"input"`) or after (`"output"`) its forward.
"""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import attrs
from torch import nn

from tenterhook.errors import UnknownLayer
from tenterhook.standard_names import (
    StandardNames,
    looks_standard,
    standard_names,
    what_instead,
)

LayerSpec = str | int
"""One layer: a dotted name, an index into `list_layers()`, `layer_N`, `input` or `output`, or a
standard name, as `resid_post.3`, where a plugin knows the model."""

LayerChoice = LayerSpec | Callable[[str, nn.Module], bool]
"""Layers: one, a submodule, a glob pattern over names, or a predicate of name and module."""


@attrs.frozen(eq=False)
class Layer:
    """A module and the one name that we call it by."""

    name: str
    """The dotted name, or `"input"` or `"output"` for the whole model."""

    module: nn.Module


class LayerIndex:
    """The names of a module's layers. Sees layers that are added or replaced later."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.plans: dict[Any, Any] = {}
        """What scopes found out about sets of layers, kept for the next scope."""

    def names(self) -> list[str]:
        """Return the dotted names of all layers, blocks and leaves, in `named_modules` order.

        A module that has several names is listed under the first; the root is not listed.
        """
        return [name for name, _ in self.module.named_modules() if name]

    def resolve(self, layer: LayerSpec) -> Layer:
        """Return the layer that `layer` means.

        A submodule's own dotted name comes first, so in a model with a submodule called `output`
        that name means the submodule; `""` always means the whole model, after its forward.
        Raises `UnknownLayer` (a `ValueError`), naming the closest layers.
        """
        if isinstance(layer, bool) or not isinstance(layer, str | int):
            raise UnknownLayer(
                layer, self.names(), "A layer is a name (str) or an index into list_layers() (int)."
            )
        if isinstance(layer, int):
            return self._by_index(layer)
        try:
            module = self.module.get_submodule(layer)
        except AttributeError:
            return self._by_alias(layer)
        if module is self.module:
            return self.whole("output")
        return Layer(self._first_name(module, layer), module)

    def expand(self, choices: Iterable[LayerChoice | Iterable[LayerChoice]]) -> list[Layer]:
        """Return the layers that names, indices, glob patterns and predicates mean, each once.

        `*`, `?` and `[...]` in a pattern match as in file names, dots included. Raises
        `UnknownLayer` for a name, pattern or predicate that means no layer.
        """
        found: dict[str, Layer] = {}
        for choice in choices:
            for layer in self._expand(choice):
                found.setdefault(layer.name, layer)
        return list(found.values())

    def path(self, name: str) -> list[tuple[dict[str, nn.Module | None], str, nn.Module]]:
        """Return the steps from the root to a layer: where each child is looked up, and the child.

        As long as each look-up gives that child, the name means the same module.
        """
        steps, module = [], self.module
        for part in name.split(".") if name else []:
            child = module.get_submodule(part)
            steps.append((module._modules, part, child))
            module = child
        return steps

    def _expand(self, choice: LayerChoice | Iterable[LayerChoice]) -> Sequence[Layer]:
        if isinstance(choice, str) and any(mark in choice for mark in "*?["):
            named = [(n, m) for n, m in self.module.named_modules() if n]
            layers = [Layer(n, m) for n, m in named if fnmatchcase(n, choice)]
            if not layers and _may_be_standard(choice) and (standard := self.standard()):
                matching = [n for n in standard.layers if fnmatchcase(n, choice)]
                layers = [self.resolve(standard.layers[name]) for name in matching]
            if not layers:
                raise UnknownLayer(choice, self.names(), "The pattern matches no layer.")
            return layers
        if isinstance(choice, str | int):
            return [self.resolve(choice)]
        if isinstance(choice, nn.Module):  # before what can be called: a module can
            return [self._by_module(choice)]
        if callable(choice):
            layers = [Layer(n, m) for n, m in self.module.named_modules() if n and choice(n, m)]
            if not layers:
                raise UnknownLayer(choice, self.names(), "The predicate holds for no layer.")
            return layers
        if not isinstance(choice, Iterable):
            raise UnknownLayer(choice, self.names(), "A layer is a name, an index or a pattern.")
        return self.expand(choice)

    def whole(self, side: str) -> Layer:
        """Return the whole model as the layer `"input"` or `"output"`.

        It is called `""` where a submodule has that name.
        """
        return Layer("" if side in self.module._modules else side, self.module)

    def blocks(self) -> list[str]:
        """Return the dotted names of the blocks of the main stack, in order; `layer_N` is the N-th.

        The main stack is the `nn.ModuleList` with the most parameters that is not inside another,
        else the `nn.Sequential` with the most.
        """
        for kind in (nn.ModuleList, nn.Sequential):
            stacks = [
                (name, module)
                for name, module in self.module.named_modules()
                if isinstance(module, kind) and len(module)
            ]
            outer = [
                (name, stack)
                for name, stack in stacks
                if not any(name != other and _inside(name, other) for other, _ in stacks)
            ]
            if outer:
                name, stack = max(outer, key=lambda named: _size(named[1]))
                return [f"{name}.{at}" if name else f"{at}" for at in stack._modules]
        return []

    def standard(self) -> StandardNames | None:
        """Return the standard names of the layers; `None` where no plugin knows the model."""
        return standard_names(self.module)

    def _by_module(self, module: nn.Module) -> Layer:
        if module is self.module:
            return self.whole("output")
        for name, found in self.module.named_modules():
            if found is module:
                return Layer(name, module)
        raise UnknownLayer(type(module).__name__, self.names(), "This module is not in the model.")

    def _by_index(self, index: int) -> Layer:
        named = [(name, module) for name, module in self.module.named_modules() if name]
        try:
            return Layer(*named[index])
        except IndexError:
            count = len(named)
            range_ = f"{count} layers: indices {-count} to {count - 1}" if count else "no layers"
            raise UnknownLayer(index, self.names(), f"It has {range_}.") from None

    def _by_alias(self, layer: str) -> Layer:
        if layer in ("input", "output"):
            return self.whole(layer)
        kind, _, number = layer.rpartition("_")
        if kind == "layer" and number.isdecimal():
            blocks = self.blocks()
            if int(number) < len(blocks):
                return self.resolve(blocks[int(number)])
            raise UnknownLayer(
                layer,
                self.names(),
                f"Its main stack has {len(blocks)} blocks: layer_0 to layer_{len(blocks) - 1}."
                if blocks
                else "It has no stack of blocks.",
            )
        if looks_standard(layer):
            return self._by_standard_name(layer)
        raise UnknownLayer(layer, self.names(), what_instead(layer))

    def _by_standard_name(self, layer: str) -> Layer:
        standard = self.standard()
        if standard is None:
            kind = type(self.module).__name__
            raise UnknownLayer(
                layer,
                self.names(),
                f"It has the form of a standard name, and no installed plugin knows those of "
                f"{kind}; `pip install tenterhook-transformers` knows many of Hugging Face's, and "
                "`tenterhook plugins list` says if it was left out.",
            )
        if layer not in standard.layers:
            raise UnknownLayer(layer, [*standard.layers, *self.names()])
        return self.resolve(standard.layers[layer])

    def _first_name(self, module: nn.Module, asked: str) -> str:
        """Return the name `named_modules` gives a module that may have several."""
        names = (name for name, found in self.module.named_modules() if found is module)
        return next(names, asked)


def _may_be_standard(pattern: str) -> bool:
    """Say whether a pattern is one of standard names, so that plugins need be asked."""
    return pattern.startswith(("resid_post.", "attn_out.", "mlp_out."))


def _inside(name: str, other: str) -> bool:
    return name.startswith(f"{other}.") or other == ""


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
