"""What a request's hooks changed: how many tokens, and by how much."""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor


@attrs.frozen(kw_only=True)
class HookReceipt:
    """What one hook of a request changed."""

    hook: str
    point: str
    tokens: int
    """Tokens that were changed, each counted once."""
    cached: int = 0
    """Those of them whose state came, changed in the same way, from a prefix cache."""
    change: float | None = None
    """Norm of the change through that of what it was made of, of all changed numbers together;
    infinite where the old ones are all 0, `None` where all tokens were cached."""


@attrs.frozen(kw_only=True)
class RequestReceipt:
    """What the hooks of one request changed."""

    tokens: int
    """Tokens that any of them changed, each counted once."""
    change: float | None
    """As of one hook, of all hooks together."""
    hooks: Sequence[HookReceipt]

    def plain(self) -> dict[str, Any]:
        """Return it as a table that JSON can say; what is no finite number is text, `"inf"`."""
        table = attrs.asdict(self)
        for each in (table, *table["hooks"]):
            if each["change"] is not None and not math.isfinite(each["change"]):
                each["change"] = str(each["change"])
        table["hooks"] = list(table["hooks"])
        return table


class Tally:
    """What one hook did so far, by position, so that a text may be cut or go on otherwise."""

    def __init__(self) -> None:
        self._pieces: list[tuple[list[int], Tensor]] = []
        self.left = set[int]()
        """Tokens that the hook was given and left as they were."""

    def add(self, positions: list[int], squares: Tensor | None) -> None:
        """Count tokens; `squares` are `(tokens, 2)`, of the change and of what it was made of.

        `None` where the hook left them as they were.
        """
        if squares is None:
            self.left.update(positions)
        else:
            self._pieces.append((positions, squares))

    def forget(self, position: int) -> None:
        """Take back what was counted from a position on."""
        self.left = {at for at in self.left if at < position}
        pieces = [(at, each) for at, each in self._pieces if at[0] < position]
        self._pieces = []
        for positions, squares in pieces:
            left = [at for at, where in enumerate(positions) if where < position]
            self._pieces.append(([positions[at] for at in left], squares[left]))

    def positions(self) -> set[int]:
        """Return the positions of the tokens that were changed."""
        return {at for positions, _ in self._pieces for at in positions}

    def squares(self) -> Tensor:
        """Return the sums of squares, float64 `(2,)`, waiting for the device."""
        total = torch.zeros(2, dtype=torch.float64)
        for _, each in self._pieces:
            total += each.sum(0).cpu().double()
        return total


def measured(old: Tensor, new: Tensor, features: Tensor | None) -> Tensor:
    """Return for each row the squares of its change and of what was changed, `(rows, 2)`."""
    # Squares of float32 and bfloat16 leave the range of float32, which is all that mps has.
    wide = torch.float32 if old.device.type == "mps" else torch.float64
    old, new = old.detach().to(wide), new.detach().to(wide)
    if features is not None:
        old, new = old[:, features], new[:, features]
    return torch.stack([(new - old).square().sum(-1), old.square().sum(-1)], -1)


def ratio(squares: Tensor) -> float:
    """Return how large a change is, of its squares and those of what it was made of."""
    change, old = squares.sqrt().tolist()
    return float(change / old) if old else math.inf if change else 0.0
