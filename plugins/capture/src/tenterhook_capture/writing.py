"""When the rows of a unit are written: as they come, or by a thread while forwards go on.

Inline costs least where the model computes on the same processors: a thread competes with it for
them. Where an accelerator computes the processors are idle, and a thread has the disk wait for no
forward and no forward wait for the disk.
"""

import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, Literal, Protocol

import torch

from tenterhook_capture.engine import Done, Pending
from tenterhook_capture.sink import Block, Closing, UnitSink

Writing = Literal["auto", "inline", "thread"]

QUEUE_BYTES = 256 << 20
"""Rows that wait for the writer at most, in bytes, unless something else is asked for."""


def uses_thread(writing: Writing, device: torch.device) -> bool:
    """Whether units are written by a thread; `"auto"` says so where an accelerator computes."""
    return writing == "thread" or (writing == "auto" and device.type != "cpu")


class UnitWriting(Protocol):
    """The writing of one unit."""

    def check(self) -> None:
        """Raise what the writing raised, if it has."""

    def put(self, block: Block) -> None:
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

    def put(self, block: Block) -> None:
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
    """

    def __init__(self, sink: UnitSink, name: str) -> None:
        self._sink = sink
        self._queue: SimpleQueue[Block | Closing | None] = SimpleQueue()
        self._stopped = False
        self._error: BaseException | None = None
        self._facts: Mapping[str, Any] | None = None
        self._thread = threading.Thread(target=self._write, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the thread raised."""
        if self._error is not None:
            raise self._error

    def put(self, block: Block) -> None:
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
        self._drain()
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
            if isinstance(item, Block):
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
            if isinstance(item, Block):
                item.staged.release()
