"""The rows of a unit, written as they come, or by a thread while forwards go on.

Inline costs least where the model computes on the same processors: a thread competes with it for
them. Where an accelerator computes the processors are idle, and a thread has the disk wait for no
forward and no forward wait for the disk.

What happens to a block of rows, with a thread:

1. The worker takes a buffer of the pool, has the rows copied into it, and hands block and buffer to
   the queue. Where the pool is empty it waits, and looks meanwhile whether the thread has failed.
2. The thread takes the block off the queue and waits until the copy has ended.
3. It appends the rows to the unit. Rows that come out of order, as bucketing has them, wait in
   memory until those of their stretch are there, and are appended in order then. Meanwhile another
   thread finds the bounds of their lengths, which takes a tenth of the processor's time that
   writing them does, or half of it in bfloat16 and int8.
4. The buffer goes back to the pool.
5. After the last block a `Closing` comes through the same queue. The thread commits the unit and
   ends; the worker has begun the next unit by then, with a thread of its own.

Inline, steps 2 to 5 run in the worker's own thread, and so does what another thread does in 3.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from tenterhook_capture.engine import Done, Pending
from tenterhook_capture.options import Writing
from tenterhook_capture.staging import Staged
from tenterhook_store import ROW_ARRAYS, NormMeter, RowBlock, RunPlan, UnitWriter, torch_dtype

Arrays = dict[str, Tensor]


@attrs.frozen(eq=False)
class StagedBlock:
    """Rows of a unit, on their way."""

    tokens: Tensor
    documents: Tensor
    positions: Tensor
    staged: Staged
    places: Tensor | None
    """Which rows of their stretch they are, long; `None` for those that come next."""
    ends: int = 0
    """How many rows the stretch has, where these are its last."""


@attrs.frozen(eq=False)
class Closing:
    """What is known of a unit when its last row is computed."""

    facts: Callable[[], Mapping[str, Any]]
    """Called as the unit is committed, for times and counts."""
    tensors: Mapping[str, Tensor]


class UnitSink:
    """Appends blocks to a unit's writer, and commits it.

    Blocks that come out of order are first copied to their places in memory for a stretch of rows,
    which `shelf` lends, and which the next stretch uses again.
    """

    def __init__(
        self, writing: UnitWriter, shelf: "Shelf", norms: NormMeter, *, beside: bool = False
    ) -> None:
        """With `beside`, the bounds of rows are found while they are written."""
        self._norms = norms
        self._beside = ThreadPoolExecutor(1, "tenterhook-norms") if beside else None
        self._writing = writing
        self._shelf = shelf
        self._stretch: Arrays | None = None

    def take(self, block: StagedBlock) -> None:
        """Append a block, or copy its rows to where they belong."""
        try:
            block.staged.wait()
            if block.places is None:
                self._append(block.tokens, block.documents, block.positions, block.staged.arrays)
                return
            if self._stretch is None:
                self._stretch = self._shelf.take()
            stretch = self._stretch
            numbers = zip(ROW_ARRAYS, (block.tokens, block.documents, block.positions), strict=True)
            for name, rows in (*numbers, *block.staged.arrays.items()):
                stretch[name].index_copy_(0, block.places, rows.to(stretch[name].dtype))
        finally:
            block.staged.release()
        if block.ends:
            found = {name: array[: block.ends] for name, array in stretch.items()}
            tokens, documents, positions = (found.pop(name) for name in ROW_ARRAYS)
            self._append(tokens, documents, positions, found)

    def finish(self, closing: Closing) -> Mapping[str, Any]:
        """Commit the unit; return what its record says."""
        for name, tensor in (*closing.tensors.items(), *self._norms.tensors().items()):
            self._writing.keep(name, tensor)
        facts = dict(closing.facts())
        self._writing.commit(facts)
        return facts

    def close(self) -> None:
        """Let go of everything; what is not committed is discarded."""
        if self._stretch is not None:
            self._shelf.give_back(self._stretch)
            self._stretch = None
        if self._beside is not None:
            self._beside.shutdown()
        self._writing.discard()

    def _append(
        self, tokens: Tensor, documents: Tensor, positions: Tensor, layers: Mapping[str, Tensor]
    ) -> None:
        block = RowBlock(tokens=tokens, documents=documents, positions=positions, layers=layers)
        if self._beside is None:
            self._writing.append(block)
            self._norms.add(layers)
            return
        norms = self._beside.submit(self._norms.add, layers)
        try:
            self._writing.append(block)
        finally:
            wait([norms])  # the rows' memory is lent, and given back after this
        norms.result()


class Shelf:
    """Memory for stretches of rows, as many as there are units open at once."""

    def __init__(self, plan: RunPlan, rows: int) -> None:
        """`rows` is how many a stretch has at most."""
        self._plan = plan
        self._rows = rows
        self._free: list[Arrays] = []

    def take(self) -> Arrays:
        """Return an array for each of the plan's, contents unknown."""
        try:
            return self._free.pop()
        except IndexError:
            rows, plan = self._rows, self._plan
            numbers = {n: torch.empty(rows, dtype=torch_dtype(d)) for n, d in ROW_ARRAYS.items()}
            layers = {
                each.name: torch.empty(rows, each.features, dtype=torch_dtype(each.dtype))
                for each in plan.layers
            }
            return {**numbers, **layers}

    def give_back(self, arrays: Arrays) -> None:
        """Lend them to another unit."""
        self._free.append(arrays)


def uses_thread(writing: Writing, device: torch.device) -> bool:
    """Whether units are written by a thread; `"auto"` says so where an accelerator computes."""
    return writing == "thread" or (writing == "auto" and device.type != "cpu")


class UnitWriting(Protocol):
    """The writing of one unit."""

    def check(self) -> None:
        """Raise what the writing raised, if it has."""

    def append(self, block: StagedBlock) -> None:
        """Hand over the next rows."""

    def finish(self, closing: Closing) -> Pending:
        """Have the unit committed once all its rows are written."""

    def cancel(self) -> None:
        """Stop, and discard the unit; returns when nothing of it runs any more."""


class InlineWriting:
    """Writes rows as they are handed over."""

    def __init__(self, sink: UnitSink) -> None:
        self._sink = sink

    def check(self) -> None:
        """Do nothing: what it raises is raised where it happens."""

    def append(self, block: StagedBlock) -> None:
        """Write the rows."""
        self._sink.take(block)

    def finish(self, closing: Closing) -> Done:
        """Commit the unit."""
        facts = self._sink.finish(closing)
        self._sink.close()
        return Done(facts)

    def cancel(self) -> None:
        """Discard the unit."""
        self._sink.close()


class ThreadWriting:
    """Writes rows in a thread, which ends with the unit.

    How much waits is bounded by the pool that the blocks' buffers are of. What the thread raises is
    raised, with its own traceback, by the next call here.

    The queue holds the unit's blocks, and at last a `Closing`, which has the thread commit, or
    `None`, which has it end. Each block's buffer goes back to the pool exactly once: by the sink
    that wrote it, or by whoever finds that nobody will.
    """

    def __init__(self, sink: UnitSink, name: str) -> None:
        self._sink = sink
        self._queue: SimpleQueue[StagedBlock | Closing | None] = SimpleQueue()
        self._stopped = False
        self._error: BaseException | None = None
        self._facts: Mapping[str, Any] | None = None
        self._thread = threading.Thread(target=self._write, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the thread raised."""
        if self._error is not None:
            raise self._error

    def append(self, block: StagedBlock) -> None:
        """Hand the rows to the thread, and return."""
        self._queue.put(block)
        self.check()

    def finish(self, closing: Closing) -> "ThreadWriting":
        """Have the thread commit, and return; `result` waits for it."""
        self._queue.put(closing)
        return self

    def ready(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def result(self) -> Mapping[str, Any]:
        """Wait until the unit is committed; return how it went."""
        self._thread.join()
        self._drain()  # a block may have come after the thread failed and emptied the queue
        self.check()
        assert self._facts is not None
        return self._facts

    def cancel(self) -> None:
        """Stop the thread before its next block, and wait for it."""
        self._stopped = True
        self._queue.put(None)
        self._thread.join()
        self._drain()

    def _write(self) -> None:
        try:
            while (item := self._queue.get()) is not None and not self._stopped:
                if isinstance(item, Closing):
                    self._facts = self._sink.finish(item)
                    return
                self._sink.take(item)
            if isinstance(item, StagedBlock):  # taken off the queue as the unit was cancelled
                item.staged.release()
        except BaseException as error:  # noqa: BLE001 - raised by whoever asks next
            self._error = error
        finally:
            try:
                self._sink.close()
            except BaseException as error:  # noqa: BLE001
                self._error = self._error or error
            self._drain()

    def _drain(self) -> None:
        """Give back what nobody will write."""
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, StagedBlock):
                item.staged.release()
