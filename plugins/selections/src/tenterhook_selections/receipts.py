"""What a selected change did in one open scope: how many calls and tokens, and how much."""

import threading

import torch
from torch import Tensor

AT_ONCE = 256
"""So many measures wait on their devices before they are added up, and a device is waited for."""


class Receipt:
    """What was changed; threads may add to it at once."""

    def __init__(self, *, measure: bool = False) -> None:
        self.measures = measure
        """Whether it says how large the change was, which takes work in each call."""
        self.calls = 0
        """Calls in which something was changed."""
        self.tokens = 0
        """Tokens that were changed, counted anew in each call."""
        self._waiting: list[Tensor] = []
        self._squares = torch.zeros(2, dtype=torch.float64)
        self._lock = threading.Lock()

    @property
    def change(self) -> float | None:
        """How large the change was: its norm through that of what it was made of.

        Of all changed numbers together, `|new - old| / |old|`; infinite where the old ones are all
        0, `None` where it is not measured, or nothing was changed.
        """
        if not self.measures or not self.calls:
            return None
        with self._lock:
            self._add_up()
            change, old = self._squares.sqrt().tolist()
        return float(change / old) if old else float("inf") if change else 0.0

    def count_call(self) -> None:
        """Count a call in which something was changed."""
        with self._lock:
            self.calls += 1

    def add(self, old: Tensor, new: Tensor, where: Tensor, tokens: int) -> None:
        """Count so many tokens of an activation `old`, which became `new` where `where` is.

        Bool, broadcast to it.
        """
        if self.measures:
            # Squares of float32 and bfloat16 leave the range of float32, which is all that mps has.
            wide = torch.float32 if old.device.type == "mps" else torch.float64
            wide = torch.promote_types(old.dtype, wide)
            old, new = old.detach().to(wide), new.detach().to(wide)
            both = torch.stack([(new - old).abs(), old.abs()])
            squares = torch.where(where, both, 0.0).square().flatten(1).sum(1)
        with self._lock:
            self.tokens += tokens
            if self.measures:
                self._waiting.append(squares)
                if len(self._waiting) == AT_ONCE:
                    self._add_up()

    def _add_up(self) -> None:
        """Wait for what devices measured; the lock is held."""
        for each in self._waiting:
            self._squares += each.cpu()
        self._waiting.clear()
