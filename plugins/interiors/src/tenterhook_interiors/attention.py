"""Points inside an attention: queries, keys, values, scores, pattern, and what heads sum up.

What happens when an attention runs, one of whose points is used:

1. Our pre-hook looks for the cache among the inputs. Keys and values are to be seen before they go
   into it, so that what a hook makes of them stays for later steps: for the length of the call the
   cache has an `update` of ours in its way.
2. The attention calls the function of its config's name, which is `attend`. It finds the points by
   the hook of 1 on the module, and asks which of them are wanted in this thread or task. None is:
   it hands on.
3. Queries (and keys and values, where there was no cache) go through their points.
4. Scores and pattern are what goes into the eager function's softmax and comes out of it, seen by a
   torch function mode that is there for this one call. Where the implementation is a fused one, a
   look at them computes them beside it, by the eager function, and throws the rest away. A change
   has the eager function in the fused one's place, for this call.
5. What comes out goes through `z`.

Other threads, and calls of this one that nobody looks at, get the model's own function with the
model's own arguments.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tenterhook.compiling import hooks_changed
from tenterhook.points import Point
from tenterhook_interiors import implementations as tables
from tenterhook_interiors.compiled import left_to_python
from tenterhook_interiors.wanted import changes, passed, wanted

OF_HEADS = ("batch", "tokens", "heads", "features")
OF_PATTERNS = ("batch", "heads", "tokens", "keys")
"""What the axes of points are, for selections."""

WORDS = ("q", "k", "v", "scores", "pattern", "z")

_log = logging.getLogger("tenterhook_interiors")


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.calls: list[tuple[Attention | None, list[Any]]] = []
        """The attentions that run here now, each with the caches that have an update of ours."""


_here = _OfThread()


class Attention:
    """The points of one attention module; on it while one of them is used."""

    def __init__(self, module: nn.Module, number: int) -> None:
        self.module: Any = module
        self.points = {word: Point(f"{word}.{number}", self._in_use) for word in WORDS}
        for word, point in self.points.items():
            point.axes = OF_PATTERNS if word in ("scores", "pattern") else OF_HEADS
        vars(self.points["scores"])["absent_key"] = -math.inf
        self._uses = 0
        self._handles: list[Any] = []
        self._told = False

    def _in_use(self, used: bool) -> None:
        self._uses += 1 if used else -1
        if used and self._uses == 1:
            compiles = hooks_changed(self.module)
            begin, end = (left_to_python(each, compiles) for each in (self.begin, self.end))
            self._handles = [
                self.module.register_forward_pre_hook(begin, with_kwargs=True),
                self.module.register_forward_hook(end, always_call=True),
                *self.switch(compiles),
            ]
        elif not self._uses:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def switch(self, compiles: bool) -> list[Any]:
        """Have the module's config say our attention function; return what undoes it."""
        return [tables.Switch(self.module.config, left_to_python(attend, compiles))]

    def __reduce__(self) -> Any:
        """Return, for a copy of the model, one without points."""
        return _without_points, (type(self),)

    def begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Have keys and values go through their points on their way into a cache."""
        looked_at = self.wanted("k") or self.wanted("v")
        caches = [*_caches((*args, *kwargs.values()))] if looked_at else []
        for cache in caches:
            vars(cache)["update"] = partial(self._update, cache)
        _here.calls.append((self, caches))

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Leave the caches as they were, also where the forward failed."""
        if _here.calls and _here.calls[-1][0] is self:  # the points may be used since it began
            for cache in _here.calls.pop()[1]:
                vars(cache).pop("update", None)

    def _update(self, cache: Any, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        key, value = self.through("k", key), self.through("v", value)
        return type(cache).update(cache, key, value, *args, **kwargs)

    def is_cached(self) -> bool:
        """Whether keys and values of the call that runs went through their points already."""
        return any(each is self and caches for each, caches in _here.calls)

    def wanted(self, word: str) -> bool:
        """Whether anything runs at a point in this thread or task."""
        return word in self.points and wanted(self.points[word])

    def through(self, word: str, tensor: Tensor) -> Tensor:
        """Return what a point makes of `(batch, heads, seq, d_head)`; hooks see seq, then heads."""
        if not self.wanted(word):
            return tensor
        given = tensor.transpose(1, 2)
        new: Tensor = passed(self.points[word], given)
        return new.transpose(1, 2)  # of the same strides; what was captured is in the graph

    def attend(
        self,
        name: str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run the attention function of that name, and the points on the way."""
        module = self.module
        query = self.through("q", query)
        if not self.is_cached():
            key, value = self.through("k", key), self.through("v", value)
        inner = [self.points[word] for word in ("scores", "pattern") if self.wanted(word)]
        if inner and (why := tables.why_hidden(name)) is not None:  # it was another once
            raise RuntimeError(f"{inner[0].name} is not to be had. {why}")
        if inner and (name == "eager" or any(map(changes, inner))):
            output = self._eager(name, query, key, value, mask, args, kwargs)
        else:
            function = tables.function_of(name, module)
            output = function(module, query, key, value, mask, *args, **kwargs)
            if inner:  # read alone: the kernel's output goes on
                self._eager(name, query, key, value, mask, args, {**kwargs, "dropout": 0.0})
        if not self.wanted("z"):
            return output
        heads, *others = output
        new = passed(self.points["z"], heads)
        return output if new is heads else (new, *others)

    def _eager(
        self,
        name: str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run the family's eager function, its softmax seen by the points."""
        module = self.module
        if name != "eager":
            mask = _eager_mask(module, query, key, mask, kwargs)
            if kwargs.get("scaling", 0.0) is None:
                kwargs = {**kwargs, "scaling": query.shape[-1] ** -0.5}
            if any(map(changes, (self.points["scores"], self.points["pattern"]))):
                self._tell(name)
        with _Softmax(self, query.shape[2], key.shape[2], query.dtype):
            return tables.eager_of(module)(module, query, key, value, mask, *args, **kwargs)

    def _tell(self, name: str) -> None:
        if not self._told:
            self._told = True
            _log.info(
                "%s is changed: calls in that scope run the eager attention in place of %s.",
                self.points["pattern"].name,
                name,
            )


class _Softmax(TorchFunctionMode):
    """Has what goes into the softmax of one call, and comes out of it, go through the points."""

    def __init__(self, attention: Attention, queries: int, keys: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._attention, self._shape, self._dtype = attention, (queries, keys), dtype
        self._seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._seen or func not in _SOFTMAX or not self._is_scores(args[0] if args else None):
            return func(*args, **kwargs)
        self._seen = True
        scores = self._through("scores", args[0])
        pattern = func(scores, *args[1:], **kwargs)
        return pattern_in(self._dtype, pattern, partial(self._through, "pattern"), self._attention)

    def _is_scores(self, tensor: Any) -> bool:
        """Whether a tensor has a score for each query and key; of sinks there may be one more."""
        if not isinstance(tensor, Tensor) or tensor.ndim != 4:
            return False
        queries, keys = self._shape
        return tensor.shape[-2] == queries and tensor.shape[-1] in (keys, keys + 1)

    def _through(self, word: str, tensor: Tensor) -> Tensor:
        attention, keys = self._attention, self._shape[1]
        if not attention.wanted(word):
            return tensor
        given = tensor if tensor.shape[-1] == keys else tensor[..., :keys]
        new: Tensor = passed(attention.points[word], given)
        if given is tensor:
            return new
        is_put = new is not given or changes(attention.points[word])
        return torch.cat([new, tensor[..., keys:]], -1) if is_put else tensor


def pattern_in(
    dtype: torch.dtype, pattern: Tensor, through: Callable[[Tensor], Tensor], attention: Attention
) -> Tensor:
    """Have a pattern go through its point in the dtype in which it meets the values.

    Models take the softmax in float32, and round what comes of it.
    """
    if pattern.dtype is dtype or not attention.wanted("pattern"):
        return through(pattern)
    given = pattern.to(dtype)
    new = through(given)
    is_put = new is not given or changes(attention.points["pattern"])
    return new.to(pattern.dtype) if is_put else pattern


_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, Tensor.softmax)


def attend(name: str, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the attention function of that name for a module, through the points that are there."""
    for hook in module._forward_pre_hooks.values():
        attention = getattr(hook, "__self__", None)
        if isinstance(attention, Attention) and any(map(attention.wanted, WORDS)):
            query, key, value, mask, *rest = args if len(args) > 3 else (*args, _mask_of(kwargs))
            return attention.attend(name, query, key, value, mask, tuple(rest), kwargs)
    return tables.function_of(name, module)(module, *args, **kwargs)


def _mask_of(kwargs: dict[str, Any]) -> Any:
    return kwargs.pop("attention_mask", None)


def _eager_mask(
    module: Any, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]
) -> Tensor | None:
    """Return what the eager function adds to scores, of the mask that was made for sdpa."""
    # Eager functions take the softmax in float32, where float64's least is one of infinity: a row
    # of padding, all masked, would be NaN, and each later layer's keys with it.
    least = max(torch.finfo(query.dtype).min, torch.finfo(torch.float32).min)
    if isinstance(mask, Tensor) and mask.dtype is torch.bool:
        return torch.where(mask, torch.zeros((), dtype=query.dtype, device=mask.device), least)
    if mask is not None:
        return mask  # type: ignore[no-any-return]
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    queries, keys = query.shape[2], key.shape[2]
    if not causal or queries < 2:
        return None
    # sdpa's own: counted from the first key, also where a static cache has more of them.
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
    return torch.where(allowed, torch.zeros((), dtype=query.dtype, device=query.device), least)[
        None, None
    ]


def _caches(given: Iterable[Any]) -> Iterator[Any]:
    """Yield the caches among inputs; of an encoder and decoder both."""
    for each in given:
        if hasattr(each, "self_attention_cache"):
            yield from (each.self_attention_cache, each.cross_attention_cache)
        elif hasattr(each, "get_seq_length") and hasattr(each, "update"):
            yield each


def _without_points(kind: type[Attention]) -> Attention:
    attention = kind.__new__(kind)
    attention.module, attention.points = None, {}
    return attention
