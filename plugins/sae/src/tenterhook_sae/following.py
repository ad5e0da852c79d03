"""What the whole model was given in the forward that runs, and what its cache has from before."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook_selections import Seen, Selection, Watch
from tenterhook_selections.eager import eager

Marks = list[bytes]
"""One for each row of a batch: rows of a cache with equal marks hold the same tokens.

None at all where the cache holds something and does not show what.
"""

CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")
"""What models of transformers call their caches."""


@attrs.define(eq=False)
class ModelForward:
    """A forward of the whole model, from beginning to end."""

    cache: Any
    """The cache that it was given, `None` for none."""

    past: Marks | None
    """The marks of the rows that the cache held as the forward began, `None` if it was empty."""

    rows: Any = None
    """What is to be found again by the marks of the rows that the cache holds at its end."""


class Following:
    """Follows the forwards of one model, while somebody needs to know what it was given."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._followed: tuple[nn.Module | None, Any] = None, None
        self._handles: list[RemovableHandle] = []

    def follow(self, module: nn.Module | None, ended: Any = None) -> None:
        """Follow this model, and no other; with `None`, none.

        `ended`, a function of a `ModelForward` and the marks at its end, is called then; without it
        nobody looks at caches.
        """
        if (module, ended) == self._followed:
            return
        for handle in self._handles:
            handle.remove()
        self._handles, self._followed = [], (module, ended)
        if module is not None:
            watch = self._watch = Watch(module)
            self._handles = [
                module.register_forward_pre_hook(watch.before, prepend=True, with_kwargs=True)
            ]
            if ended is not None:
                self._handles += [
                    module.register_forward_pre_hook(self._begin),
                    module.register_forward_hook(self._end, always_call=True),
                ]

    @property
    def seen(self) -> Seen | None:
        """The tokens of the forward that runs in this thread: which are real, and where."""
        return self._watch.seen

    def seen_for(self, selection: Selection) -> Seen | None:
        """Return `seen`; `ValueError` where `selection` needs to know it and cannot."""
        return self._watch.seen_for(selection)

    @property
    def token_ids(self) -> Tensor | None:
        """The token ids of the forward that runs in this thread, int `(batch, seq)`."""
        inputs = self._watch.inputs
        if inputs is None:
            return None
        # A model with names of its own: its first input.
        for ids in (inputs.get("input_ids"), *inputs.values()):
            if isinstance(ids, Tensor):
                return ids if ids.ndim == 2 and not ids.is_floating_point() else None
        return None

    @property
    def forward(self) -> ModelForward | None:
        """The forward that runs in this thread, the innermost; where caches are looked at."""
        found: ModelForward | None = (self._watch.notes or {}).get("forward")
        return found

    @eager
    def _begin(self, *_: Any) -> None:
        notes, cache = self._watch.notes, _cache((self._watch.inputs or {}).get)
        if notes is not None:
            notes["forward"] = ModelForward(cache, marks(cache))

    @eager
    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        forward, ended = self.forward, self._followed[1]
        if forward is not None and forward.rows is not None and ended is not None:
            given = forward.cache
            cache = _cache(lambda name: getattr(output, name, None)) if given is None else given
            ended(forward, marks(cache))


def _cache(named: Callable[[str], Any]) -> Any:
    return next((cache for cache in map(named, CACHES) if cache is not None), None)


@torch.no_grad()
def marks(cache: Any) -> Marks | None:
    """Return the marks of a cache's rows; `None` where it is empty.

    What the deepest layer keeps follows from all the tokens before.
    """
    cache = getattr(cache, "self_attention_cache", cache)
    layers = getattr(cache, "layers", None)
    if layers is None:
        length = getattr(cache, "get_seq_length", None)
        return None if cache is None or (length is not None and not int(length())) else []
    for layer in reversed(layers):
        states = _row_states(layer)
        if states is not None:
            rows = states.flatten(1).cpu()
            return [blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in rows]
    return None


def _row_states(layer: Any) -> Tensor | None:
    """Return what a layer of a cache keeps of each row, float32 `(batch, ...)`, `None` if empty."""
    states = getattr(layer, "recurrent_states", {}).values()
    found = [state.flatten(1).float() for state in states if isinstance(state, Tensor)]
    if found and all(layer.has_previous_state.values()):
        return torch.cat(found, 1)
    keys = getattr(layer, "keys", None)
    if isinstance(keys, Tensor) and keys.numel() and int(layer.get_seq_length()):
        return keys.contiguous().sum(2, dtype=torch.float32)  # of all tokens
    return None
