"""The layers of a module, by every name that users have for them.

A layer is a module at a dotted name, as `named_modules` prints it, or the whole model seen
before (`"input"`) or after (`"output"`) its forward.

Every spelling is to cost the same from the second scope on. So what names were found to mean is
kept (`Found`), and looked at again before it is believed; see `tenterhook.module_tree`.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakSet

import attrs
from torch import nn

from tenterhook.errors import UnknownLayer
from tenterhook.module_tree import ModuleTree, Paths, registrations
from tenterhook.plugins.default import default_manager
from tenterhook.points import Point, Points, ask

LayerSpec = str | int
"""One layer: a dotted name, an index into `list_layers()`, `layer_N`, `input` or `output`, or a
name that a plugin gives: a standard name, as `resid_post.3`, or a point, as `z.3`."""

LayerChoice = LayerSpec | Callable[[str, nn.Module], bool]
"""Layers: one, a submodule, a glob pattern over names, or a predicate of name and module."""


@attrs.frozen(eq=False)
class Layer:
    """A module and the one name that we call it by."""

    name: str
    """The dotted name, `"input"` or `"output"` for the whole model, or a point's name."""

    module: nn.Module


@attrs.define(eq=False)
class Found:
    """What some choices of layers were found to mean, and whether they mean it still."""

    layers: tuple[Layer, ...]
    _tree: ModuleTree
    _paths: Paths | None
    """The ways to the layers; `None` where what is meant depends on every name in the model."""
    _stacks: Sequence[tuple[dict[str, Any], int]]
    """The stacks of blocks that numbers count in, and how long they were."""
    _namers: object
    """The plugins that were asked for names, `None` where none were."""
    _types: list[type] | None
    """The types of the choices, `None` where all are strings: a key of both takes 5 times as long
    to look up."""
    _count: int = attrs.field(factory=registrations)

    def holds(self, choices: tuple[Any, ...]) -> bool:
        """Whether a search would find the same layers now for these equal choices."""
        if self._types is not None and self._types != [*map(type, choices)]:
            return False  # 1 is not True
        if self._namers is not None and self._namers is not _namers():
            return False
        count = registrations()
        if self._paths is None or self._count != count:
            if not self._tree.holds():
                return False
            self._count = count
        return self._paths is None or (
            self._paths.hold() and all(len(stack) == size for stack, size in self._stacks)
        )


def _namers() -> object:
    return default_manager().extensions("layer_names")


class LayerIndex:
    """The names of a module's layers. Sees layers that are added, replaced, moved or removed."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.stack: str | None = None
        """The stack that `layer_N` counts in; `None` for the one with the most parameters."""
        self.plans: dict[Any, Any] = {}
        """What scopes found out about sets of layers, kept for the next scope."""
        self._last: ModuleTree | None = None
        self._kept: dict[Any, Found] = {}
        self._asking = threading.RLock()  # a second thread is to find the points of the first
        self._offered: WeakSet[Point] = WeakSet()

    def tree(self, *, exact: bool = True) -> ModuleTree:
        """Return the modules by name, as they are now.

        With `exact=False` as they were when torch last registered a module.
        """
        tree = self._last
        if tree is None or ((exact or tree.count != registrations()) and not tree.holds()):
            tree = self._last = ModuleTree(self.module)
        return tree

    def names(self) -> list[str]:
        """Return the dotted names of all layers, blocks and leaves, in `named_modules` order.

        A module that has several names is listed under the first; the root is not listed.
        """
        return [name for name, _ in self.tree().named]

    def resolve(self, layer: LayerSpec) -> Layer:
        """Return the layer that `layer` means.

        A submodule's own dotted name comes first, so in a model with a submodule called `output`
        that name means the submodule; `""` always means the whole model, after its forward.
        Raises `UnknownLayer` (a `ValueError`), naming the closest layers.
        """
        is_none = isinstance(layer, bool) or not isinstance(layer, str | int)
        if is_none or (_is_pattern(str(layer)) and self._module_at(str(layer)) is None):
            what = "A layer is a name (str) or an index into list_layers(), and patterns are for"
            raise self._unknown(layer, f"{what} scopes: capture, steer and hooks take them.")
        return self.find((layer,)).layers[0]

    def expand(self, choices: Iterable[LayerChoice | Iterable[LayerChoice]]) -> list[Layer]:
        """Return the layers that names, indices, glob patterns and predicates mean, each once.

        `*`, `?` and `[...]` in a pattern match as in file names, dots included. Raises
        `UnknownLayer` for a name, pattern or predicate that means no layer.
        """
        return list(self.find(tuple(choices)).layers)

    def find(self, choices: tuple[Any, ...]) -> Found:
        """Return the layers of `expand`, as they were found last time where that still holds."""
        key = (self.stack, choices)
        try:
            found = self._kept.get(key)
        except TypeError:  # a list among the choices
            return _Search(self, exact=True).found(choices)
        if found is None or not found.holds(choices):
            search, found = _Search(self, exact=False), None
            with suppress(UnknownLayer, AttributeError):
                found = search.found(choices)
            if found is None or not (search.exact or found.holds(choices)):
                search = _Search(self, exact=True)
                found = search.found(choices)
            if search.may_be_kept:
                if len(self._kept) >= _MOST_KEPT:
                    self._kept.clear()
                self._kept[key] = found
        return found

    def whole(self, side: str) -> Layer:
        """Return the whole model as the layer `"input"` or `"output"`.

        It is called `""` where a submodule has that name.
        """
        return Layer("" if side in self.module._modules else side, self.module)

    def stacks(self, tree: ModuleTree | None = None) -> dict[str, list[str]]:
        """Return the stacks of blocks, the one that `layer_N` counts in first, by dotted name.

        Each with the dotted names of its blocks. A stack is an `nn.ModuleList` that is not inside
        another, where there is none an `nn.Sequential`; the one with the most parameters comes
        first, unless `stack` names another. `tree` is that of now, for a caller that has it.
        """
        tree = tree or self.tree()
        if "stacks" not in tree.derived:
            tree.derived["stacks"] = _stacks_of([("", self.module), *tree.named])
        found: dict[str, list[str]] = tree.derived["stacks"]
        if self.stack is None:
            return found
        if self.stack not in found:
            raise UnknownLayer(self.stack, list(found), "It is no stack of blocks.")
        return {self.stack: found[self.stack], **found}

    def blocks(self) -> list[str]:
        """Return the dotted names of the blocks of the main stack, in order; `layer_N` is the N-th.

        See `stacks`.
        """
        return next(iter(self.stacks().values()), [])

    def standard(self, tree: ModuleTree | None = None) -> Any:
        """Return the `StandardNames` of the layers; `None` where no plugin knows the model."""
        return next(self._answers("layer_names", tree or self.tree()), None)

    def points(self, word: str | None = None) -> Points:
        """Return the points that plugins offer, those whose names begin with `word`, if given.

        The first time may take long: a plugin may run the model.
        """
        found = [*self._answers("points", self.tree(), word)][::-1]  # the first one's name counts
        layers = {name: at for each in found for name, at in each.layers.items()}
        refused = {name: why for each in found for name, why in each.refused.items()}
        aliases = {alias: name for each in found for alias, name in each.aliases.items()}
        self._offered.update(at for at in layers.values() if isinstance(at, Point))
        also: dict[str, dict[str, str]] = {}
        for library, names in (item for each in found for item in each.also.items()):
            also.setdefault(library, {}).update(names)
        return Points(layers=layers, aliases=aliases, refused=refused, also=also)

    def _answers(self, kind: str, tree: ModuleTree, word: str | None = None) -> Iterator[Any]:
        """Yield what the plugins of a kind say of the model as it is now; each is asked once."""
        known = default_manager().extensions(kind)  # a new one whenever any plugin changes
        with self._asking:
            if tree.derived.get(kind, (None,))[0] is not known:
                tree.derived[kind] = known, {}
            answers = tree.derived[kind][1]
            for one in known.values():
                at = one.extension.target
                if word in (None, one.name) and at not in answers:
                    answers[at] = ask(one, self.module)
        yield from (each for each in answers.values() if each is not None)

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield all that hooks may stand at: the modules, the root too, then the points."""
        yield from self.module.named_modules()
        yield from [(point.name, point) for point in self._offered]

    def _module_at(self, name: str) -> nn.Module | None:
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            return None
        except RuntimeError:  # TorchScript has no such method
            return dict(self.module.named_modules()).get(name)

    def _unknown(self, layer: Any, detail: str, also: Iterable[str] = ()) -> UnknownLayer:
        aliases = [f"layer_{n}" for n in range(len(self.blocks()))]
        return UnknownLayer(layer, self.names(), detail, [*also, *aliases])


class _Search:
    """One look for what some choices mean, and what the answer depends on."""

    def __init__(self, index: LayerIndex, *, exact: bool) -> None:
        self.index = index
        self.exact = exact
        """Whether the tree is that of now, and not of when torch last registered a module."""
        self.tree = index.tree(exact=exact)
        self.may_be_kept = True
        self._by_path = True
        self._asked: list[str] = []
        self._counts = self._standard = False
        self._refused: Mapping[str, str] = {}

    def found(self, choices: tuple[Any, ...]) -> Found:
        layers: dict[str, Layer] = {}
        for layer in self._each(choices):
            layers.setdefault(layer.name, layer)
        module, paths = self.index.module, None
        names = [la.name for la in layers.values() if la.module is not module]
        stacks = self.index.stacks(self.tree) if self._counts or self._standard else {}
        if self._by_path and len(stacks) < 2:  # of several, any may become the largest
            paths = Paths(module, [*names, *self._asked])
        return Found(
            tuple(layers.values()),
            self.tree,
            paths,
            [(module.get_submodule(name)._modules, len(blocks)) for name, blocks in stacks.items()],
            _namers() if self._standard else None,
            None if {*map(type, choices)} <= {str} else [*map(type, choices)],
        )

    def _whole(self) -> None:
        """Have the answer depend on every name in the model."""
        self._by_path = False
        if not self.exact:
            self.exact, self.tree = True, self.index.tree()

    def _each(self, choices: Iterable[Any]) -> Iterable[Layer]:
        for choice in choices:
            if isinstance(choice, str):
                yield from self._named(choice)
            elif isinstance(choice, int) and not isinstance(choice, bool):
                yield self._numbered(choice)
            elif isinstance(choice, nn.Module):  # before what can be called: a module can
                yield self._by_module(choice)
            elif callable(choice):
                self.may_be_kept = False
                yield from self._that(choice, choice, "The predicate holds for")
            elif isinstance(choice, Iterable):
                self.may_be_kept = False  # what it holds may change
                yield from self._each(choice)
            else:
                raise self.index._unknown(choice, "A layer is a name, an index or a pattern.")

    def _named(self, choice: str) -> Iterable[Layer]:
        index = self.index
        module = index._module_at(choice)
        if module is index.module:
            return [index.whole("output")]
        if module is not None:
            self._asked.append(choice)
            if self.tree.first_names.get(module) != choice:  # shared, or the tree is of before
                self.tree = index.tree()
            return [Layer(self.tree.first_names.get(module, choice), module)]
        if not _is_pattern(choice):
            return [self._by_alias(choice)]
        self._whole()
        matching = [n for n in self._given(choice) if fnmatchcase(n, choice)]
        if matching and not any(fnmatchcase(n, choice) for n, _ in self.tree.named):
            return list(self._each(matching))
        return self._that(lambda n, _: fnmatchcase(n, choice), choice, "The pattern matches")

    def _that(self, wanted: Callable[[str, nn.Module], Any], choice: Any, what: str) -> list[Layer]:
        self._whole()
        layers = [Layer(n, m) for n, m in self.tree.named if wanted(n, m)]
        if not layers:
            raise self.index._unknown(choice, f"{what} no layer.")
        return layers

    def _numbered(self, number: int) -> Layer:
        self._whole()
        try:
            return Layer(*self.tree.named[number])
        except IndexError:
            count = len(self.tree.named)
            range_ = f"{count} layers: indices {-count} to {count - 1}" if count else "no layers"
            raise self.index._unknown(number, f"It has {range_}.") from None

    def _by_module(self, module: nn.Module) -> Layer:
        self._whole()
        if module is self.index.module:
            return self.index.whole("output")
        name = self.tree.first_names.get(module)
        if name is None:
            raise self.index._unknown(type(module).__name__, "This module is not in the model.")
        return Layer(name, module)

    def _by_alias(self, layer: str) -> Layer:
        index = self.index
        if layer in ("input", "output"):
            return index.whole(layer)
        kind, _, number = layer.rpartition("_")
        if kind == "layer" and number.isdecimal():
            self._counts = True
            return next(iter(self._named(self._block(layer, int(number)))))
        given = self._given(layer)
        at = given.get(layer)
        if isinstance(at, Point):
            self._whole()
            return Layer(at.name, at)
        if at is not None:
            return next(iter(self._named(at)))
        words = {name.partition(".")[0] for name in given}
        is_given = re.fullmatch(r"[a-z]\w*\.\d+", layer) and layer.partition(".")[0] not in words
        why = self._refused.get(layer) or self._refused.get(layer.partition(":")[0])
        why = why or (_NO_PLUGIN if is_given else "")
        raise index._unknown(layer, why, given)

    def _given(self, asked: str) -> Mapping[str, "str | Point"]:
        """Return the names that plugins give, of which one may be meant, and what they stand for.

        Points only where an extension is named as they begin, for asking may take long.
        """
        self._standard = True
        standard = self.index.standard(self.tree)
        names: Mapping[str, Any] = {} if standard is None else standard.layers
        known = default_manager().extensions("points")
        word = asked.rpartition(":")[2]  # of an alias
        word = word if word in known else asked.partition(".")[0]
        words = {name.partition(".")[0] for name in names}
        if word in words or word not in known:
            return names
        points = self.index.points(word)
        self._refused = points.refused
        aliases = {alias: points.layers[name] for alias, name in points.aliases.items()}
        return {**aliases, **points.layers, **names}

    def _block(self, layer: str, number: int) -> str:
        stacks = self.index.stacks(self.tree)
        if not stacks:
            raise self.index._unknown(layer, "It has no stack of blocks.")
        (main, blocks), *others = stacks.items()
        if number < len(blocks):
            return blocks[number]
        count = len(blocks)
        detail = f"Its main stack {main!r} has {count} blocks: layer_0 to layer_{count - 1}."
        if others:
            names = ", ".join(repr(name) for name, _ in others)
            detail += f" To count in another, {names}: model.layers(stack={others[0][0]!r})."
        raise self.index._unknown(layer, detail)


_MOST_KEPT = 256

_NO_PLUGIN = "No installed plugin gives it; `pip install tenterhook-interiors` knows many models."


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _stacks_of(named: Sequence[tuple[str, nn.Module]]) -> dict[str, list[str]]:
    for kind in (nn.ModuleList, nn.Sequential):
        stacks = {name: m for name, m in named if isinstance(m, kind) and len(m)}
        outer: list[str] = []
        for name in stacks:  # what is inside another comes right after it
            if not outer or (outer[-1] and not name.startswith(f"{outer[-1]}.")):
                outer.append(name)
        if len(outer) > 1:  # counting parameters takes longer than all else here
            outer.sort(key=lambda name: -sum(each.numel() for each in stacks[name].parameters()))
        if outer:
            return {
                name: [f"{name}.{at}" if name else f"{at}" for at in stacks[name]._modules]
                for name in outer
            }
    return {}
