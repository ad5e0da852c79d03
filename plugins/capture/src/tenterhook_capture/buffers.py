"""Memory for rows on their way to the store: taken, given back, used again."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

STEP = 1 << 16
"""Buffers are a multiple of it, so that batches of nearly one size can use the same ones."""


class BufferPool:
    """Hands out buffers, at most `limit` bytes at a time; one larger than that goes alone.

    What is given back is used again: the first touch of fresh memory is slow.
    """

    def __init__(self, limit: int, *, pinned: bool = False) -> None:
        self._limit = limit
        self._pinned = pinned
        self._free: list[Tensor] = []
        self._used = 0
        self._changed = threading.Condition()

    def take(self, size: int, check: Callable[[], None] = lambda: None) -> Tensor:
        """Return at least `size` bytes, uint8, contents unknown; wait for them where it must.

        `check` is called while it waits, and may raise.
        """
        size = -(-max(size, 1) // STEP) * STEP
        with self._changed:
            while self._full_for(size):
                check()
                if self._full_for(size):  # else the check has made room
                    self._changed.wait(0.2)
            fits = [buffer for buffer in self._free if len(buffer) >= size]
            buffer = min(fits, key=len, default=None)
            if buffer is None:
                self._free.clear()  # too small, all of them
                buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
            else:
                self._free = [each for each in self._free if each is not buffer]
            self._used += len(buffer)
            while self._free and self._used + sum(map(len, self._free)) > self._limit:
                self._free.pop()
            return buffer

    def _full_for(self, size: int) -> bool:
        return self._used > 0 and self._used + size > self._limit

    def give_back(self, buffer: Tensor) -> None:
        """Let others use a buffer; nobody reads or writes it any more."""
        with self._changed:
            self._used -= len(buffer)
            self._free.append(buffer)
            self._changed.notify_all()
