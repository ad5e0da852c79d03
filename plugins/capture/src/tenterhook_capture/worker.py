"""One unit: run its documents, hand its rows to be written, have it committed.

What happens in a unit:

1. The windows that have rows in it are grouped into batches. A batch follows from the capture and
   the unit alone, so that a unit done again, anywhere, is the same forwards.
2. A batch is one forward. What the points gave stays on the model's device, padding included.
3. Rows are chosen there, reduced, and made int8 where that is asked for.
4. Those that are kept are copied into a buffer of CPU memory, while an accelerator goes on with
   the next forward.
5. The buffer is handed to the writing: written at once, or by the unit's thread.
6. After the last batch the unit is committed, by whoever writes. A thread does that while the next
   unit is computed.

Steps 1 to 5 run in the thread that calls the worker, and only the writing may be another.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_capture.batches import Batch, batches, stretch_rows
from tenterhook_capture.batching import Batching
from tenterhook_capture.engine import Pending
from tenterhook_capture.forward import ForwardPass, ForwardResult
from tenterhook_capture.identity import CaptureSpec
from tenterhook_capture.options import QUEUE_BYTES, Writing
from tenterhook_capture.probe_rows import ProbeRows
from tenterhook_capture.provenance import now
from tenterhook_capture.staging import BufferPool, FlatRows, Stage
from tenterhook_capture.token_rows import ChosenRows
from tenterhook_capture.writing import (
    Closing,
    InlineWriting,
    Shelf,
    StagedBlock,
    ThreadWriting,
    UnitSink,
    UnitWriting,
    uses_thread,
)
from tenterhook_store import (
    OUT_OF_RANGE,
    SCALE,
    SPANS,
    ErrorMeter,
    NormMeter,
    RangeMeter,
    Reducing,
    RunWriter,
    Unit,
    is_narrower,
    quantize,
    torch_dtype,
)
from tenterhook_store.document_fields import PREFIX, field_tensor


class CaptureWorker:
    """Does units of a capture.

    What a unit runs, and in which batches, follows from the spec and the unit alone: it is
    computed the same way whenever and wherever. A document that crosses into another unit is run
    for both, and each keeps its own rows.
    """

    def __init__(
        self,
        rows: ChosenRows,
        writer: RunWriter,
        spec: CaptureSpec,
        forward: ForwardPass,
        *,
        device: torch.device,
        on_rows: Callable[[int], None],
        fields: Mapping[str, Sequence[Any]] | None = None,
        writing: Writing = "auto",
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._rows = rows
        self._writer = writer
        self._spec = spec
        self._forward = forward
        self._on_rows = on_rows
        self._fields = {} if fields is None else fields
        self._threaded = uses_thread(writing, device)
        self._stage = Stage(BufferPool(queue_bytes, pinned=device.type == "cuda"))
        self._how = Batching.of_spec(attrs.asdict(spec))
        most = writer.plan.unit(0).rows  # no unit has more
        if self._how.batch_size is None:
            most = min(most, stretch_rows(writer.plan.row_bytes))
        self._shelf = Shelf(writer.plan, most)

    def __call__(self, unit: Unit) -> Mapping[str, Any]:
        """Compute, write and commit a unit; return its times and counts."""
        pending = self.start(unit)
        try:
            return pending.result()
        except BaseException:
            pending.cancel()
            raise

    def start(self, unit: Unit) -> Pending:
        """Compute a unit; return once its rows are handed over, to be written and committed."""
        work = _UnitWork(unit, self._spec, with_spans=bool(self._writer.plan.about.get(SPANS)))
        writing = self._open(unit)
        try:
            row_bytes = self._writer.plan.row_bytes
            for batch in batches(self._rows.pieces(unit), self._how, row_bytes=row_bytes):
                before = time.perf_counter()
                seen = self._forward(batch.documents)
                # On an accelerator the forward is only asked for by now: its time shows in
                # `handing`, where its rows are waited for.
                ran = time.perf_counter()
                writing.append(self._block(batch, seen, unit, work, writing))
                work.count(batch, forward=ran - before, handing=time.perf_counter() - ran)
                self._on_rows(len(batch))
            return writing.finish(work.closing(self._kept_fields(unit)))
        except BaseException:
            writing.cancel()
            raise

    def _kept_fields(self, unit: Unit) -> dict[str, Tensor]:
        """Return what is kept of the documents that are the unit's."""
        if not self._fields:
            return {}
        own = self._rows.documents_of(unit)
        return {PREFIX + name: field_tensor(each[own]) for name, each in self._fields.items()}

    def _open(self, unit: Unit) -> UnitWriting:
        norms = NormMeter(self._writer.plan, unit.rows)
        sink = UnitSink(self._writer.open_unit(unit), self._shelf, norms, beside=self._threaded)
        if self._threaded:
            return ThreadWriting(sink, f"tenterhook-unit-{unit.number}")
        return InlineWriting(sink)

    def _block(
        self, batch: Batch, seen: ForwardResult, unit: Unit, work: "_UnitWork", writing: UnitWriting
    ) -> StagedBlock:
        """Gather the rows of a batch, on their way to memory of the CPU."""
        # Places cost an index a row, so only where something asks for them.
        in_unit = batch.places(unit.start) if self._spec.reduce else None
        rows = work.arrays(seen, batch, in_unit)
        stretch = batch.stretch
        tokens, documents, positions = batch.numbers()
        work.add_spans(batch)
        return StagedBlock(
            tokens=tokens,
            documents=documents,
            positions=positions,
            staged=self._stage(rows, writing.check),
            places=None if stretch is None else batch.places(stretch.start),
            ends=stretch.rows if stretch is not None and batch.is_last else 0,
        )


class _UnitWork:
    """What is computed of one unit beside its rows."""

    def __init__(self, unit: Unit, spec: CaptureSpec, *, with_spans: bool) -> None:
        self._unit = unit
        # A run that was begun without them goes on without.
        self._spans = torch.empty(unit.rows if with_spans else 0, 2, dtype=torch.int32)
        self._spec = spec
        self._start, self._began = now(), time.perf_counter()
        self._forward = self._handing = 0.0
        self._documents = self._batches = self._computed = 0
        self._reducing = [
            Reducing(spec.reduce, top=spec.top_k) for _ in (spec.layers if spec.reduce else ())
        ]
        self._probed = None if spec.keep_rows else ProbeRows()
        kept = spec.layers if spec.keep_rows else ()
        self._narrowed: dict[str, RangeMeter] = {}
        self._off = {each.name: ErrorMeter() for each in kept if each.dtype == "int8"}

    def arrays(
        self, seen: ForwardResult, batch: Batch, places: Tensor | None
    ) -> dict[str, FlatRows]:
        """Reduce the chosen rows of each point; return those that are kept, as they are kept."""
        picks = batch.picks()
        probed = None if self._probed is None else self._probed.choose(batch)
        index = seen.real if picks is None else seen.real[picks]
        index_on = {
            device: None if seen.is_whole and picks is None else _moved(index, device)
            for device in {tensor.device for tensor in seen.layers.values()}
        }
        found: dict[str, FlatRows] = {}
        reducings = itertools.zip_longest(self._spec.layers, self._reducing)
        for number, (layer, reducing) in enumerate(reducings):
            flat = seen.layers[layer.name]
            is_int8 = layer.dtype == "int8"
            rows = FlatRows(
                flat, index_on[flat.device], flat.dtype if is_int8 else torch_dtype(layer.dtype)
            )
            if is_narrower(rows.dtype, flat.dtype):
                rows = self._cast(layer.name, rows)
            elif reducing is not None or is_int8:
                # Read more than once below, so gathered once; else the copy itself gathers them.
                rows = FlatRows(rows.gathered(), None, rows.dtype)
            if reducing is not None:
                assert places is not None
                reducing.add(rows.flat, places)
            if self._probed is not None and probed is not None:
                self._probed.keep(number, rows.flat[probed.to(rows.flat.device)])
            if not self._spec.keep_rows:
                continue
            if not is_int8:
                found[layer.name] = rows
                continue
            steps, scale = quantize(rows.flat)
            self._off[layer.name].add(rows.flat, steps, scale)
            found[layer.name] = FlatRows(steps, None, steps.dtype)
            found[layer.name + SCALE] = FlatRows(scale, None, scale.dtype)
        return found

    def add_spans(self, batch: Batch) -> None:
        """Keep where the characters of the batch's rows are, if the run has that."""
        if len(self._spans) and (found := batch.spans()) is not None:
            self._spans[batch.places(self._unit.start)] = found

    def _cast(self, layer: str, rows: FlatRows) -> FlatRows:
        """Return rows in a dtype that does not hold all of them, and count which."""
        exact = FlatRows(rows.flat, rows.index, rows.flat.dtype).gathered()
        cast = exact.to(rows.dtype)
        self._narrowed.setdefault(layer, RangeMeter()).add(exact, cast)
        return FlatRows(cast, None, cast.dtype)

    def count(self, batch: Batch, *, forward: float, handing: float) -> None:
        """Count a batch, and the seconds that it took."""
        self._documents += len(batch.pieces)
        self._batches += 1
        self._computed += batch.tokens_computed
        self._forward += forward
        self._handing += handing

    def closing(self, fields: Mapping[str, Tensor]) -> Closing:
        """Return what is to be kept with the unit, the fields of its documents too."""
        tensors = {
            f"reduced/{number}/{part}": tensor
            for number, reducing in enumerate(self._reducing)
            for part, tensor in reducing.finish(first=self._unit.start).items()
        }
        if len(self._spans):
            tensors[SPANS] = self._spans
        if self._probed is not None:
            tensors |= self._probed.tensors()
        return Closing(self._facts, {**tensors, **fields})

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "start": self._start,
            "end": now(),
            "rows": self._unit.rows,
            "documents": self._documents,
            "batches": self._batches,
            "tokens_computed": self._computed,
            "seconds": round(time.perf_counter() - self._began, 4),
            "forward_seconds": round(self._forward, 4),
            "handing_seconds": round(self._handing, 4),
        }
        if self._off:
            facts["int8"] = {name: meter.facts() for name, meter in self._off.items()}
        if self._narrowed:
            facts[OUT_OF_RANGE] = {name: meter.facts() for name, meter in self._narrowed.items()}
        return facts


def _moved(index: Tensor, device: torch.device) -> Tensor:
    """Return the index there; without waiting for what the device computes, on CUDA."""
    if device.type != "cuda":
        return index.to(device)
    return index.pin_memory().to(device, non_blocking=True)
