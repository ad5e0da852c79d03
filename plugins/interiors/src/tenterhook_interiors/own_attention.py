"""Points of an attention that computes everything in its own forward, past transformers' tables.

GPT-J, Falcon, BLOOM, MPT, DeBERTa and others do. While a point is used, and only in the calls in
which something runs there, a torch function mode sees what the module's forward computes:

1. The first product of matrices is queries by keys. They go through `q` and `k`; keys and values
   on their way into a cache, as in `attention`.
2. What goes into the softmax, and comes out of it, goes through `scores` and `pattern`.
3. The next product is the pattern by values: these go through `v`, what it gives through `z`.

A module that calls `scaled_dot_product_attention` has all of it in that one call. Scores and
pattern are computed beside it for a look, and in its place for a change.

Some have batch and heads in one axis; points see two. That all of it is what it is called is proven
when names are found, as of any attention.
"""

import math
import threading
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tenterhook.activations import first_input, inputs_of
from tenterhook_interiors.attention import WORDS, Attention, pattern_in
from tenterhook_interiors.compiled import PythonForward
from tenterhook_interiors.wanted import changes, passed


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.calls: list[tuple[OwnAttention, _Forward | None]] = []
        """The attentions that run here now, each with what looks on."""


_here = _OfThread()


class OwnAttention(Attention):
    """The points of one attention module that calls no function of transformers' tables."""

    def switch(self, compiles: bool) -> list[Any]:
        """Leave the config alone, and the module's forward to Python."""
        return [PythonForward(self.module)] if compiles else []

    def begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Look on while the module's forward runs."""
        super().begin(module, args, kwargs)
        taken = first_input(inputs_of(module, args, kwargs))
        mode = None
        if taken is not None and any(map(self.wanted, WORDS)):
            mode = _Forward(self, len(taken), taken.dtype)
            mode.__enter__()  # type: ignore[no-untyped-call]
        _here.calls.append((self, mode))

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Look no more, also where the forward failed."""
        if _here.calls and _here.calls[-1][0] is self:  # the points may be used since it began
            _, mode = _here.calls.pop()
            if mode is not None:
                mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        super().end(module, args, output)

    def seen(self, word: str, tensor: Tensor) -> None:
        """Be told of a factor of a product, `(batch, heads, seq, d_head)`, `"other"` of others."""


class _Forward(TorchFunctionMode):
    """Looks on while one attention runs."""

    def __init__(self, attention: OwnAttention, batch: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._attention, self._batch, self._dtype = attention, batch, dtype
        self._begun = self._scored = self._summed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._summed:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._summed = True
            return self._whole(*args, **kwargs)
        if func in _PRODUCTS:
            return self._product(func, list(args), dict(kwargs))
        if func in _SOFTMAX and self._begun and not self._scored and self._is_square(args[0]):
            self._scored = True
            scores = self._through("scores", args[0])
            pattern = func(scores, *args[1:], **kwargs)
            through = partial(self._through, "pattern")
            return pattern_in(self._dtype, pattern, through, self._attention)
        return func(*args, **kwargs)

    def _is_square(self, tensor: Any) -> bool:
        """Whether a tensor has batch and heads, as two axes or one, and two more."""
        if not isinstance(tensor, Tensor) or tensor.ndim not in (3, 4):
            return False
        return tensor.ndim == 4 or not len(tensor) % max(self._batch, 1)

    def _product(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Run a product of matrices, its factors and what it gives through their points."""
        places = _PRODUCTS[func]
        given = [kwargs[name] if name in kwargs else args[at] for at, name in places]
        if not all(map(self._is_square, given)):
            return func(*args, **kwargs)
        new = given
        if not self._begun:
            self._begun = True
            keys = given[1].transpose(-1, -2)
            found = self._cacheable("k", keys)
            new = [
                self._heads("q", given[0]),
                given[1] if found is keys else found.transpose(-1, -2),
            ]
        elif self._scored:
            self._summed = True
            new = [given[0], self._cacheable("v", given[1])]
        else:
            for each in given:
                self._attention.seen("other", self._four(each))
        for (at, name), each in zip(places, new, strict=True):
            if name in kwargs:
                kwargs[name] = each
            else:
                args[at] = each
        result = func(*args, **kwargs)
        return self._heads("z", result) if self._summed else result

    def _cacheable(self, word: str, tensor: Tensor) -> Tensor:
        """Have keys or values go through their point, unless they did on their way into a cache."""
        if not self._attention.is_cached():
            return self._heads(word, tensor)
        self._attention.seen(word, self._four(tensor))
        return tensor

    def _four(self, tensor: Tensor) -> Tensor:
        """Return batch and heads as two axes."""
        return tensor if tensor.ndim == 4 else torch.unflatten(tensor, 0, (self._batch, -1))

    def _heads(self, word: str, tensor: Tensor) -> Tensor:
        """Have `(batch, heads, seq, d_head)` go through a point, with the axes as it has them."""
        four = self._four(tensor)
        self._attention.seen(word, four)
        if not self._attention.wanted(word):
            return tensor
        return self._attention.through(word, four).reshape(tensor.shape)

    def _through(self, word: str, tensor: Tensor) -> Tensor:
        if not self._attention.wanted(word):
            return tensor
        new: Tensor = passed(self._attention.points[word], self._four(tensor))
        return new.reshape(tensor.shape)

    def _whole(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Run a fused attention through the points."""
        attention = self._attention
        query = self._heads("q", query)
        key, value = self._cacheable("k", key), self._cacheable("v", value)
        inner = [attention.points[word] for word in ("scores", "pattern") if attention.wanted(word)]
        changed = any(map(changes, inner))
        if inner:
            summed = self._eager(
                query, key, value, attn_mask, dropout_p if changed else 0.0, is_causal, scale
            )
        if not changed:
            summed = F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale,
                enable_gqa=enable_gqa,
            )  # fmt: skip
        return self._heads("z", summed)

    def _eager(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropout: float,
        is_causal: bool,
        scale: float | None,
    ) -> Tensor:
        """Compute what the fused attention does, as PyTorch's documentation defines it."""
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and key.shape[1] > 1:
            key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
        scores = query @ key.transpose(-1, -2) * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            least = torch.finfo(scores.dtype).min
            scores = scores + mask if mask.dtype != torch.bool else scores.masked_fill(~mask, least)
        pattern = self._through("pattern", self._through("scores", scores).softmax(-1))
        return F.dropout(pattern, dropout) @ value


_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
_PRODUCTS = {
    torch.matmul: ((0, "input"), (1, "other")),
    Tensor.matmul: ((0, "self"), (1, "other")),
    Tensor.__matmul__: ((0, "self"), (1, "other")),
    torch.bmm: ((0, "input"), (1, "mat2")),
    Tensor.bmm: ((0, "self"), (1, "mat2")),
    torch.baddbmm: ((1, "batch1"), (2, "batch2")),
    Tensor.baddbmm: ((1, "batch1"), (2, "batch2")),
}
"""Products of matrices, and where their factors are: by number or by name."""
