"""What a selected change did in one open scope: how many calls and tokens, and how much.

Counted where the activations are, without waiting for a device: the numbers are added up when
somebody asks.
"""

import threading

import torch
from torch import Tensor

FOLD = 256
"""So many calls are kept before they are added up."""


class Receipt:
    """What was changed; threads may add to it at once."""

    def __init__(self, *, measure: bool = False) -> None:
        self.measures = measure
        self._calls = 0
        self._waiting: list[Tensor] = []
        self._sums = torch.zeros(3, dtype=torch.float64)
        self._lock = threading.Lock()

    @property
    def calls(self) -> int:
        """Calls in which something was changed."""
        return self._calls

    @property
    def tokens(self) -> int:
        """Tokens that were changed, counted anew in each call: positions of the batch and the
        sequence."""
        return int(self._added_up()[0])

    @property
    def change(self) -> float | None:
        """How large the change was: its norm through that of what it was made of.

        Of all changed numbers together, `|new - old| / |old|`; `None` where it is not measured, or
        nothing was changed.
        """
        _, change, old = self._added_up().tolist()
        if not self.measures or not self._calls:
            return None
        return float((change / old) ** 0.5) if old else float("inf") if change else 0.0

    def count_call(self) -> None:
        """Count a call in which something was changed."""
        with self._lock:
            self._calls += 1

    def add(self, old: Tensor, new: Tensor, mask: Tensor) -> None:
        """Count the tokens of an activation `old` that became `new` where `mask` is.

        The mask is broadcast to them.
        """
        mask = mask.detach()
        by_token = mask.any(-1) if mask.ndim == old.ndim and old.ndim > 1 else mask
        tokens = by_token.expand(old.shape[: by_token.ndim]).sum().to(torch.float64)
        numbers = [tokens]
        if self.measures:
            old, new = (each.detach().to(torch.float64) for each in (old, new))
            numbers += [
                torch.where(mask, each, 0).square().sum() for each in ((new - old).abs(), old.abs())
            ]
        else:
            numbers += [torch.zeros_like(tokens)] * 2
        with self._lock:
            self._waiting.append(torch.stack(numbers))
            full = len(self._waiting) >= FOLD
        if full:
            self._added_up()

    def _added_up(self) -> Tensor:
        with self._lock:
            for each in self._waiting:
                self._sums += each.cpu()
            self._waiting.clear()
            return self._sums
