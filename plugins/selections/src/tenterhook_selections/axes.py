"""What the axes of a layer's activation are, where the layer says so.

Most layers have features last and tokens before them, and say nothing. Inside an attention there
are heads, too, and a pattern has them before the tokens. Such a layer has an attribute `axes`, the
names of its axes in order: `("batch", "tokens", "heads", "features")`,
`("batch", "heads", "tokens", "keys")`.

Keys are the columns that the tokens of a call attend to. Which columns there are depends on the way
of running: padding is among them, a cache has earlier ones, a static cache more than there are
tokens, a sliding one the latest alone. So what is picked of selected tokens has its keys counted as
tokens are: from the first real token of the row.
"""

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tenterhook_selections.tokens import Seen


@attrs.frozen
class Axes:
    """Where the axes are that selections ask for."""

    tokens: int
    heads: int | None
    has_keys: bool
    """Whether the last axis is keys."""

    @classmethod
    def of(cls, layer: nn.Module) -> "Axes | None":
        """Return those that a layer says it has; `None` where it says nothing."""
        said = vars(layer).get("axes") or getattr(type(layer), "axes", None)  # every call asks
        if not isinstance(said, tuple) or said[:1] != ("batch",) or "tokens" not in said:
            return None
        heads = said.index("heads") if "heads" in said else None
        return cls(said.index("tokens"), heads, said[-1] == "keys")

    def tokens_second(self, tensor: Tensor) -> Tensor:
        """Return a view with the tokens after the batch."""
        return tensor.movedim(self.tokens, 1)

    def heads_of_tokens(self) -> int | None:
        """Return which axis the heads are, once batch and tokens have become the first one."""
        if self.heads is None:
            return None
        return self.heads if self.heads < self.tokens else self.heads - 1


@attrs.frozen(eq=False)
class Keys:
    """Which column of an axis of keys is which token of its row."""

    column: Tensor
    """Long `(batch, tokens)`, on the CPU: the column of each token; -1 where it is not there."""

    @classmethod
    def of(cls, seen: Seen, count: int) -> "Keys | None":
        """Return those of a call with `count` keys; `None` where they are the tokens as they are.

        There may be more columns than tokens so far, as of a static cache: those at the end are
        empty. Where there are fewer, they are the latest, as of a sliding cache.
        """
        real = seen.columns
        if real is None or (bool(real.all()) and count == real.shape[1]):
            return None
        position = real.cumsum(1) - 1
        first = max(real.shape[1] - count, 0)
        longest = int(real.sum(1).max()) if real.numel() else 0
        column = torch.full((len(real), longest + 1), -1, dtype=torch.long)
        at = torch.arange(real.shape[1] - first).expand(len(real), -1)
        column.scatter_(1, torch.where(real, position, longest)[:, first:], at)
        return cls(column[:, :longest])

    def aligned(self, values: Tensor, rows: Tensor, absent: float) -> Tensor:
        """Return values `(n, ..., keys)` with their keys in token order, `(n, ..., tokens)`.

        `rows` are the rows of the batch that they are of; `absent` stands for what is not there.
        """
        index = self.column[rows].to(values.device)
        index = index.reshape(len(index), *(1,) * (values.ndim - 2), index.shape[1])
        index = index.expand(*values.shape[:-1], index.shape[-1])
        return values.gather(-1, index.clamp(min=0)).masked_fill(index < 0, absent)


def absent_of(layer: Any) -> float:
    """Return what stands for a key that is not there: 0, unless the layer says otherwise."""
    found = getattr(layer, "absent_key", 0.0)
    return found if isinstance(found, float) else 0.0


def stacked(tokens: list[Tensor], count: int, absent: float) -> Tensor:
    """Return the values of a row's tokens, each `(..., keys)`, as `(n, ..., tokens)`.

    Later ones may have more keys than earlier ones. `count` is how many tokens the row has so far,
    by the last of these: what comes after them is left out, unless a token attends to it.
    """
    longest = max(each.shape[-1] for each in tokens)
    wide = [nn.functional.pad(each, (0, longest - each.shape[-1]), value=absent) for each in tokens]
    whole = torch.stack(wide)
    rest = whole[..., count:]
    # What models put in the place of a masked score.
    lowest = max(torch.finfo(whole.dtype).min, torch.finfo(torch.float32).min)
    is_empty = bool(((rest == absent) | (rest <= lowest)).all())
    return whole[..., :count] if is_empty else whole
