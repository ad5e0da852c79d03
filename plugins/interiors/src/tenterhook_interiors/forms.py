"""In which shapes a layer may give the queries or keys of all heads, and which of them it is."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tenterhook_interiors.recording import same
from tenterhook_interiors.sides import TURNED, WHOLE, Form, heads_of, threes_of


def forms_of(result: Tensor | None, heads: Tensor) -> Iterator[Form]:
    """Yield the forms that give, of a layer's output, a tensor like `heads`, `(b, s, h, d)`."""
    if result is None or not result.is_floating_point():
        return
    batch, seq, count, size = heads.shape
    if result.shape == heads.shape:
        yield WHOLE
    elif result.ndim == 4 and result.shape == (batch, count, seq, size):
        yield TURNED
    elif result.shape[:-1] == (batch, seq):
        width = result.shape[-1]
        for start in range(0, width - count * size + 1, size):
            yield heads_of(start, count, size)
        if width == 3 * count * size:
            yield from (threes_of(at, count, size) for at in range(3))


def is_before(before: Tensor, after: Tensor, dtype: torch.dtype) -> bool:
    """Whether `after` is `before`, rotated by position and scaled.

    A rotation keeps each vector's length, and does nothing at the first position.
    """
    if not bool(before.norm()):
        return False
    scale = after.double().norm() / before.double().norm()
    given = before.double() * scale
    return same(given.norm(dim=-1), after.double().norm(dim=-1), dtype) and same(
        given[:, 0], after[:, 0].double(), dtype
    )
