"""The modules of a model by name, read once, and a quick look whether they are still the same.

Walking 1,000 modules takes a millisecond, and names are looked up in every scope. So the walk is
kept, and what it saw is compared with what is there now. Python tells nobody of a change in a
dictionary, and torch only of modules that are registered, so there are two ways to look:

- `ModuleTree.holds` compares every name and child in the model, in a few loops that run in C: about
  0.1 ms for 1,000 modules. It sees any surgery, also one behind torch's back.
- `Path.holds` follows the names of a few layers only, one dictionary look-up a step. For an alias
  (`layer_5`, `resid_post.5`) it also asks that torch has registered no module meanwhile, anywhere
  (one number), and that the stacks of blocks are as long as they were.

`test_layers_surgery.py` changes models at random between scopes, and compares each spelling with a
walk of its own.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

_registered = 0
"""How many modules torch has registered since the first tree was read."""

_is_counting: list[Any] = []


def registrations() -> int:
    """Return how many modules torch has registered, in any model, since this was first called."""
    if not _is_counting:
        _is_counting.append(register_module_module_registration_hook(_count))
    return _registered


def _count(*_: Any) -> None:
    global _registered
    _registered += 1


_modules_of = operator.itemgetter("_modules")


class ModuleTree:
    """What `named_modules` gave, the root left out."""

    def __init__(self, root: nn.Module) -> None:
        self.count = registrations()
        self.named = [(name, module) for name, module in root.named_modules() if name]
        """Each module once, under its first name, in order."""
        self.first_names = {module: name for name, module in self.named}
        self.derived: dict[Any, Any] = {}
        """What was worked out of this tree, by whoever did; it goes with the tree."""
        modules = [each for each in (root, *self.first_names) if _may_change(each)]
        full = [m for m in modules if m._modules or isinstance(m, _LISTS)]
        self._attributes = [vars(module) for module in full]
        self._dicts = [module._modules for module in full]
        self._views = [each.values() for each in self._dicts]  # they follow their dictionaries
        self._empty = [module._modules for module in modules if not module._modules]
        self._keys = list(chain.from_iterable(self._dicts))
        self._children = list(chain.from_iterable(self._views))

    def holds(self) -> bool:
        """Whether every name still means the same module, in the same order."""
        return (
            not any(self._empty)
            and all(map(operator.is_, map(_modules_of, self._attributes), self._dicts))
            and list(chain.from_iterable(self._dicts)) == self._keys
            # Lists ask `is` of their items first, in half the time of asking it one by one.
            and list(chain.from_iterable(self._views)) == self._children
        )


def _may_change(module: nn.Module) -> bool:
    """Whether its children are in a dictionary of Python's: TorchScript's stay as they are."""
    return isinstance(vars(module).get("_modules"), dict)


_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
"""Modules that may put another dictionary in the place of theirs."""

_child: Callable[[Mapping[str, Any], str], Any] = dict.get  # type: ignore[assignment]


class Paths:
    """The ways from the root to some modules: each step's dictionary, key and child."""

    def __init__(self, root: nn.Module, names: Iterable[str]) -> None:
        steps: dict[tuple[nn.Module, str], nn.Module] = {}
        for name in names:
            module = root
            for part in name.split(".") if name else ():
                if not _may_change(module):
                    break
                # `get_submodule` finds attributes, too, and takes five times as long.
                # A compiled module of no length cannot say whether it is true.
                child = module._modules.get(part)
                child = module.get_submodule(part) if child is None else child
                steps[module, part] = child
                module = child
        owners = dict.fromkeys(owner for owner, _ in steps)
        self._attributes = [vars(owner) for owner in owners]
        self._dicts = [owner._modules for owner in owners]
        self._places = [owner._modules for owner, _ in steps]
        self._keys = [part for _, part in steps]
        self._children = list(steps.values())

    def hold(self) -> bool:
        """Whether each look-up still gives the same child."""
        return all(
            map(operator.is_, map(_modules_of, self._attributes), self._dicts)  # see `_LISTS`
        ) and all(map(operator.is_, map(_child, self._places, self._keys), self._children))
