"""One unit: run its documents, write its rows, commit."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tenterhook.capture._forward import rows_of_batch
from tenterhook.capture._tokens import TokenRows, Window, numbers
from tenterhook.store import RowBlock, RunWriter, Unit, torch_dtype
from tenterhook.text_model import TextModel


class CaptureWorker:
    """Does units of a capture.

    The documents of a unit are run in their order in batches of `batch_size`, from the first that
    has a row in it, so a unit is computed the same way whenever and wherever. A document that
    crosses into another unit is run for both, and each keeps its own rows.
    """

    def __init__(
        self,
        model: TextModel,
        tokens: TokenRows,
        writer: RunWriter,
        *,
        batch_size: int,
        on_rows: Callable[[int], None],
    ) -> None:
        self._model = model
        self._tokens = tokens
        self._writer = writer
        self._batch_size = batch_size
        self._on_rows = on_rows
        self._dtypes = {each.name: torch_dtype(each.dtype) for each in writer.plan.layers}

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Compute, write and commit a unit; return its times and counts."""
        began, forward, windows, batches = time.perf_counter(), 0.0, 0, 0
        with self._writer.open_unit(unit) as writing:
            for batch in _batched(self._tokens.windows(unit), self._batch_size):
                before = time.perf_counter()
                block = self._block(batch, unit)
                forward += time.perf_counter() - before
                writing.append(block)
                windows += len(batch)
                batches += 1
                self._on_rows(len(block))
            facts = {
                "rows": unit.rows,
                "documents": windows,
                "batches": batches,
                "seconds": round(time.perf_counter() - began, 4),
                "forward_seconds": round(forward, 4),
            }
            writing.commit(facts)
        return facts

    def _block(self, batch: list[Window], unit: Unit) -> RowBlock:
        """Run a batch and return those of its rows that are in the unit."""
        layers = list(self._dtypes)
        found = rows_of_batch(self._model, [w.ids for w in batch], layers, self._dtypes)
        first = batch[0].start
        own = slice(max(unit.start - first, 0), unit.stop - first)
        tokens, documents, positions = numbers(batch)
        return RowBlock(
            tokens=tokens[own],
            documents=documents[own],
            positions=positions[own],
            layers={layer: rows[own] for layer, rows in found.items()},
        )


def _batched(windows: Iterable[Window], size: int) -> Iterator[list[Window]]:
    rest = iter(windows)
    while batch := list(itertools.islice(rest, size)):
        yield batch
