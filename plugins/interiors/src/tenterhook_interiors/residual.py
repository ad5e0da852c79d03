"""How a block adds up: which layers' outputs it adds to the residual stream, found by trying.

`x` goes into a block, `y` comes out. The layers inside are tried in pairs, the later ones first:
`y = x + c * (attention + mlp)` for a sequential block, where something inside the block reads
`x + c * attention`, and for a parallel one, where nothing does. A decoder that attends to an
encoder adds what comes of that, too. Where a norm stands after the sum, as in BERT, its input is
the sum: `y = norm(norm(x + attention) + mlp)`.
"""

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_interiors.recording import Call, Recording, same


@attrs.frozen
class Sum:
    """What a block adds."""

    attention: str
    mlp: str
    scale: float = 1.0
    middle: str | None = None
    """`"sum"` where the stream between them is the sum, else the layer that returns it."""


def find_sum(
    recording: Recording, block: Call, attention: str, scales: Sequence[float], dtype: torch.dtype
) -> Sum | None:
    """Return how a block adds up, `None` where no two layers' outputs give what it returns.

    `attention` is the path of its attention, `scales` are factors that may stand before what is
    added, the config's.
    """
    x, y = block.given, block.result
    if x is None or y is None or x.shape != y.shape:
        return None
    calls = [each for each in map(_shaped(x), recording.inside(block.path)) if each is not None]
    names = [each.path for each in recording.inside(block.path)]
    begins = names.index(attention) if attention in names else 0
    order = {name: at for at, name in enumerate(names)}
    within = f"{attention}."
    after = [each for each in calls if order[each.path] >= begins or each.path.startswith(within)]
    after = _outermost(after, dtype)
    for scale in dict.fromkeys((1.0, *scales)):
        for one in after:
            middle = x + scale * _result(one)
            for two in reversed(after):
                if two is one or not same(middle + scale * _result(two), y, dtype):
                    continue
                first, last = _in_order(one, two, attention)
                return _sum(recording, block, first, last, scale, dtype)
    return _post_norm(recording, block, after, dtype) or _of_three(recording, block, after, dtype)


def _sum(
    recording: Recording, block: Call, first: Call, last: Call, scale: float, dtype: torch.dtype
) -> Sum:
    assert block.given is not None
    stream = block.given + scale * _result(first)
    given = (each.given for each in recording.inside(block.path) if each.given is not None)
    alike = (each.reshape(stream.shape) for each in given if each.numel() == stream.numel())
    reads = any(same(each, stream, dtype) for each in alike)
    return Sum(first.path, last.path, scale, "sum" if reads else None)


def _of_three(
    recording: Recording, block: Call, after: Sequence[Call], dtype: torch.dtype
) -> Sum | None:
    """Return the sum of a decoder's block: attention, attention to the encoder, and MLP."""
    assert block.given is not None
    for at, one in enumerate(after):
        for there, two in enumerate(after[at + 1 :], at + 1):
            stream = block.given + _result(one) + _result(two)
            for three in reversed(after[there + 1 :]):
                if same(stream + _result(three), block.result, dtype):
                    return _sum(recording, block, one, three, 1.0, dtype)
    return None


def _post_norm(
    recording: Recording, block: Call, after: Sequence[Call], dtype: torch.dtype
) -> Sum | None:
    x, y = block.given, block.result
    assert x is not None
    inside = list(recording.inside(block.path))
    for norm in inside:
        for one in after:
            if norm is one or not same(norm.given, x + _result(one), dtype):
                continue
            middle = norm.result
            if middle is None or middle.shape != x.shape:
                continue
            for last in inside:
                if not same(last.result, y, dtype) or last is norm:
                    continue
                for two in after:
                    if same(last.given, middle + _result(two), dtype):
                        return Sum(one.path, two.path, 1.0, norm.path)
            found = _post_norm_of_two(block, inside, after, norm, dtype)
            if found is not None:
                return Sum(one.path, found, 1.0, norm.path)
    return None


def _post_norm_of_two(
    block: Call, inside: Sequence[Call], after: Sequence[Call], first: Call, dtype: torch.dtype
) -> str | None:
    """Return the MLP of a decoder's block which has a norm after each of three sums.

    `first` is the norm after the attention; the one after the attention to the encoder is next.
    """
    for second in inside:
        for cross in after:
            if second is first or not same(second.given, _result(first) + _result(cross), dtype):
                continue
            for last in inside:
                if last is second or not same(last.result, block.result, dtype):
                    continue
                for mlp in after:
                    if same(last.given, _result(second) + _result(mlp), dtype):
                        return mlp.path
    return None


def _outermost(calls: Sequence[Call], dtype: torch.dtype) -> list[Call]:
    """Return one call of each tensor: that of the layer which ended last."""
    kept: list[Call] = []
    for call in reversed(calls):
        if not any(same(call.result, each.result, dtype) for each in kept):
            kept.insert(0, call)
    return kept


def _in_order(one: Call, two: Call, attention: str) -> tuple[Call, Call]:
    """Return what comes of the attention first."""
    is_two = two.path == attention or two.path.startswith(f"{attention}.")
    return (two, one) if is_two else (one, two)


def _shaped(x: Tensor) -> Callable[[Call], Call | None]:
    """Return what gives a call with its result as `x` is, `None` where it is of another size."""

    def shaped(call: Call) -> Call | None:
        result = call.result
        if result is None or not result.is_floating_point() or result.numel() != x.numel():
            return None
        if result.shape[-1] != x.shape[-1]:
            return None
        return attrs.evolve(call, result=result.reshape(x.shape))  # OPT has its tokens in one row

    return shaped


def _result(call: Call) -> Tensor:
    assert call.result is not None
    return call.result
