"""What a capture would make and take, measured on its first batches; nothing is made."""

import time
from collections.abc import Iterable

import attrs

from tenterhook_capture.beginning import as_begun
from tenterhook_capture.engine import LocalEngine
from tenterhook_capture.identity import CaptureSpec, differences
from tenterhook_capture.prepare import Capture
from tenterhook_capture.together import led
from tenterhook_capture.token_rows import Piece
from tenterhook_capture.workers import make_worker
from tenterhook_store import MemoryStore, OtherRun, RowRanges, Store, Unit
from tenterhook_store.unit_numbers import UnitNumbers

BATCHES = 2
"""How many batches are timed, after as many that are not: a process begins slowly."""


@attrs.frozen(kw_only=True)
class Estimate:
    """The size of a capture, and how long what is missing of it takes one process."""

    tokens: int
    """That are kept of the documents; of all or some of them there are rows."""
    tokens_bytes: int
    """Of the token ids that the run's processes share, in the store."""
    rows: int
    rows_per_unit: int
    rows_missing: int
    """All, where the run is not there yet."""
    bytes: int
    """Of all layers' rows, before any compression."""
    units: int
    units_missing: int
    shards: int
    """Files of rows that the store makes of it; objects, in an object store."""
    rows_per_second: float
    """Of the forward passes alone, with what becomes of their rows in memory."""

    @property
    def seconds(self) -> float:
        """What the missing rows take at that rate."""
        return self.rows_missing / self.rows_per_second


def estimate(store: Store, capture: Capture, run_id: str) -> Estimate:
    """Run the first batches and say what the capture will be.

    Makes nothing in the store. Raises `OtherRun` where the run is there and is another one.
    """
    return led(capture, LocalEngine(), lambda: _estimate(store, capture, run_id))


def _estimate(store: Store, capture: Capture, run_id: str) -> Estimate:
    run_id, capture = as_begun(store, capture, run_id)
    plan, committed = capture.plan, frozenset[int]()
    if run_id in store.runs():
        run = store.run(run_id)
        if found := differences(plan, run.plan):
            raise OtherRun(run_id, found)
        committed = run.committed
    missing = UnitNumbers.missing(committed, plan.unit_count)
    there = RowRanges.of_units(committed, plan, run_id)
    return Estimate(
        tokens=len(capture.rows.tokens),
        tokens_bytes=capture.tokens.bytes,
        rows=plan.rows,
        rows_per_unit=plan.rows_per_unit,
        rows_missing=plan.rows - there.rows,
        bytes=plan.rows * plan.row_bytes,
        units=plan.unit_count,
        units_missing=len(missing),
        shards=store.count_shards(plan),
        rows_per_second=_rate(capture),
    )


def _rate(capture: Capture) -> float:
    """Return the rows per second of the first batches, which go into memory and are dropped."""
    plan = capture.plan
    pieces = capture.rows.pieces(Unit(0, 0, plan.rows))
    first = _first(pieces, capture.spec)
    # A unit that is smaller than that is done in smaller batches: so is this.
    rows = min(first[-1].row + len(first[-1].offsets), plan.rows_per_unit, plan.rows)
    stop = min(2 * rows, plan.rows)
    small = attrs.evolve(plan, rows=stop, rows_per_unit=stop)
    worker = make_worker(capture, MemoryStore().write_run("estimate", small))
    worker(Unit(0, 0, rows))
    timed = Unit(0, rows, stop) if stop > rows else Unit(0, 0, rows)
    began = time.perf_counter()
    worker(timed)
    return timed.rows / (time.perf_counter() - began)


def _first(pieces: Iterable[Piece], spec: CaptureSpec) -> list[Piece]:
    """Return pieces for so many batches, about."""
    found: list[Piece] = []
    tokens = 0
    for piece in pieces:
        found.append(piece)
        tokens += len(piece.window.ids)
        if spec.batch_size is not None and len(found) >= BATCHES * spec.batch_size:
            break
        if spec.batch_tokens is not None and tokens >= BATCHES * spec.batch_tokens:
            break
    return found
