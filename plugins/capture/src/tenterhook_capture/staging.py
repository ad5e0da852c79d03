"""Rows from where the model computes to memory that can be written: padding left behind.

The memory is a pool of buffers: taken, given back, used again.

From an accelerator the copy goes to pinned memory on a stream of its own, so that the next forward
need not wait for it. Nothing is read, reused or freed before the copy has ended: the stream waits
for what computed the rows, the allocator is told that the stream uses them, and whoever reads the
buffer waits for an event after the copy.
"""

import threading
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

ALIGN = 64
"""Each array begins at a multiple of it, so that a buffer of bytes can be seen as any dtype."""

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
        """Return at least `size` bytes, uint8 `(bytes,)`, contents unknown; wait where it must.

        `check` is called while it waits, and may raise.
        """
        size = -(-max(size, 1) // STEP) * STEP
        with self._changed:
            while self._full_for(size):
                check()
                if self._full_for(size):  # else the check has made room
                    # Not for good: a writer that fails gives nothing back, and `check` tells
                    # (test_an_error_while_the_queue_is_full).
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
        """Let others use a buffer that `take` gave; nobody reads or writes it any more."""
        with self._changed:
            self._used -= len(buffer)
            self._free.append(buffer)
            self._changed.notify_all()


@attrs.frozen(eq=False)
class Staged:
    """Rows in a buffer of a pool."""

    arrays: dict[str, Tensor]
    """`[rows, features]` each, on the CPU; to be read once `wait` has returned."""
    events: tuple["torch.cuda.Event", ...]
    buffer: Tensor
    pool: BufferPool

    def wait(self) -> None:
        """Return when the rows are there."""
        for event in self.events:
            event.synchronize()

    def release(self) -> None:
        """Give the memory back."""
        self.wait()  # the copy may still write
        self.pool.give_back(self.buffer)


@attrs.frozen(eq=False)
class FlatRows:
    """Rows of a flat batch, not yet gathered."""

    flat: Tensor
    """`(batch * seq, features)`, on the model's device."""
    index: Tensor | None
    """Which of them, long, on the same device; `None` for all."""
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.flat) if self.index is None else len(self.index)

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, features)`."""
        return len(self), self.flat.shape[1]

    def gathered(self) -> Tensor:
        """Return them, `(rows, features)`, in their dtype, on their device."""
        rows = self.flat if self.index is None else self.flat.index_select(0, self.index)
        return rows.to(self.dtype)

    def write(self, target: Tensor) -> None:
        """Copy them into `target`, `(rows, features)` on the CPU, which has their dtype."""
        if self.index is None:
            target.copy_(self.flat)
        elif self.dtype == self.flat.dtype and self.flat.device.type == "cpu":
            torch.index_select(self.flat, 0, self.index, out=target)
        else:
            target.copy_(self.gathered())


class Stage:
    """Copies rows into buffers of a pool."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def __call__(self, rows: Mapping[str, FlatRows], check: Callable[[], None]) -> Staged:
        """Copy, or begin to; `check` is called while a full pool is waited for."""
        places, size = {}, 0
        for name, each in rows.items():
            places[name] = size
            count = each.shape[0] * each.shape[1] * each.dtype.itemsize
            size += -(-count // ALIGN) * ALIGN
        buffer = self._pool.take(size, check)
        arrays, events = {}, []
        try:
            for name, each in rows.items():
                count = each.shape[0] * each.shape[1] * each.dtype.itemsize
                part = buffer[places[name] : places[name] + count]
                arrays[name] = part.view(each.dtype).view(each.shape)
                if each.flat.is_cuda:
                    events.append(self._copy_beside(each, arrays[name]))
                else:
                    each.write(arrays[name])
        except BaseException:
            Staged({}, tuple(events), buffer, self._pool).release()
            raise
        return Staged(arrays, tuple(events), buffer, self._pool)

    def _copy_beside(self, rows: FlatRows, target: Tensor) -> "torch.cuda.Event":
        device = rows.flat.device
        gathered = rows.gathered()  # on the stream that computed them
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            target.copy_(gathered, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        # Else the allocator gives this memory to the next forward while the copy still reads it
        # (test_a_copy_sees_what_was_there_when_it_was_asked_for).
        gathered.record_stream(stream)
        return event
