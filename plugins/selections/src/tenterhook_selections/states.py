"""How many tokens a state has behind it: recurrent models hand it on from one forward to the next.

A cache of keys and values says how long it is; a state does not. So what a forward returns beside
its activation is remembered, and a forward that is given it again goes on from there. Tensors are
known by their memory, so that `state.detach()` is the same state; caches by themselves.
"""

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.multiprocessing import reductions

from tenterhook.activations import activation_of

_NO_STATE = ("input_ids", "inputs_embeds", "labels", "encoder_hidden_states", "encoder_outputs")
_MOST = 256


@attrs.frozen(eq=False)
class _Known:
    """A state that a forward returned."""

    real: Tensor
    """Bool `(batch, n)`, on the CPU: the tokens behind it that are real."""

    alive: Any
    """Says whether it is still there."""


_known: dict[int, _Known] = {}
_names: "weakref.WeakKeyDictionary[type, set[str]]" = weakref.WeakKeyDictionary()
"""The inputs, by class of module, that a state was ever given as."""


class LostState(ValueError):
    """A state was given that no forward returned."""


def tokens_behind(kind: type, named: Mapping[str, Any]) -> Tensor | None:
    """Return the real tokens behind the state among a call's inputs, bool `(batch, n)`.

    `None` where there is none. Raises `LostState` where a state is given that is not known.
    """
    for name, value in named.items():
        if name in _NO_STATE or "mask" in name or "position" in name or value is None:
            continue
        for each in _states_in(value):
            found = _known.get(_key(each))
            if found is not None and found.alive():
                _names.setdefault(kind, set()).add(name)
                return found.real
            if name in _names.get(kind, ()) and isinstance(each, Tensor) and bool(each.any()):
                raise LostState(
                    f"Tokens are selected, and {name} is no state that a forward returned, so it "
                    "is not known how many tokens came before. Pass it on as it was returned."
                )
    return None


def remember(named: Mapping[str, Any], output: Any, real: Any) -> None:
    """Remember the states that a forward returned; `real` gives the real tokens behind them."""
    first = activation_of(output)
    found = [each for each in _states_in(output) if each is not first]
    found += [each for name, each in named.items() if name not in _NO_STATE and _is_cache(each)]
    if not found:
        return
    if len(_known) > _MOST:
        for key in [key for key, known in _known.items() if not known.alive()]:
            del _known[key]
    tokens = real()
    for each in found:
        _known[_key(each)] = _Known(tokens, _watch(each))


def _states_in(value: Any, depth: int = 0) -> Iterator[Any]:
    """Give the tensors and caches in a value, inside tuples, lists and mappings."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.ndim > 1:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _states_in(each, depth + 1)
    elif isinstance(value, tuple | list):
        if depth < 3:
            for each in value:
                yield from _states_in(each, depth + 1)
    elif _is_cache(value):
        yield value


def _is_cache(value: Any) -> bool:
    """Whether something keeps a state and does not say how long it is."""
    if value is None or isinstance(value, Tensor | str | int | float | Mapping | tuple | list):
        return False
    if not hasattr(value, "__dict__") or not hasattr(type(value), "__weakref__"):
        return False
    try:
        int(value.get_seq_length())
    except (AttributeError, ValueError, TypeError):
        return True
    return False


def _key(state: Any) -> int:
    if isinstance(state, Tensor):
        try:
            return int(state.untyped_storage()._cdata)
        except (RuntimeError, NotImplementedError):  # a tensor without a storage
            return -1
    return id(state)


def _watch(state: Any) -> Any:
    if isinstance(state, Tensor):
        try:
            storage = _weakly(state.untyped_storage())
        except (RuntimeError, NotImplementedError):
            return lambda: False
        return lambda: not storage.expired()
    reference = weakref.ref(state)
    return lambda: reference() is not None


_weakly: Any = reductions.StorageWeakRef  # has no types


def with_past(past: Tensor | None, real: Tensor) -> Tensor:
    """Return the real tokens behind a state and those of a forward, `(batch, past + seq)`."""
    if past is None or len(past) != len(real):
        return real
    return torch.cat([past, real], 1)
