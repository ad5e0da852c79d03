"""A few committed rows, computed again before a run is continued or taken for an answer.

The identity of a capture is what can be read of a model: bytes and settings. No list of that kind
is complete. A patched forward, an activation function that was swapped, somebody's own torch hook
stand in no list, and they do change rows. So one batch of the run's own is run again, and its rows
are held against those that are stored:

- the same numbers: the run goes on;
- closer than rounding explains (another machine, kernel or library): it goes on, and the session
  says so;
- anything else is `OtherRun`.

The batch is one that the run made, of the same documents, so that on one machine the numbers are
the same. It is of the first, the middle or the last unit that are committed; `probe_rows` says
which batch of a unit, and which of its rows, also where a run has statistics and no rows.
"""

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from torch import Tensor

from tenterhook_capture.batches import Batch, batches
from tenterhook_capture.batching import Batching
from tenterhook_capture.identity import is_of_earlier_version
from tenterhook_capture.prepare import Capture
from tenterhook_capture.probe_rows import (
    LAYER,
    NUMBERS,
    best_batch,
    compared_documents,
    compared_rows,
)
from tenterhook_capture.row_check import RowCheck, computing_dtype
from tenterhook_capture.threads import threads_of
from tenterhook_store import (
    DamagedStore,
    LayerComparison,
    OtherRun,
    Run,
    RunWriter,
    Store,
    Unit,
    dequantize,
    dtype_name,
    quantize,
    torch_dtype,
)
from tenterhook_store.limits import units_held

UNSEEN = (
    "All that can be read of the model is what it was, so something that no list has changes its "
    "numbers: a torch hook, a patched forward, a function that was swapped, or chance. "
    "`tenterhook runs reproduce` compares more of the run."
)
"""What is to be thought of rows that are not those of the run."""

NO_ROWS = "the run has statistics and no rows, nor rows to compare: an earlier version began it"
"""Why a run is not compared."""


ALL_DROPPED = "the run has a limit, and the rows of all units that are committed were dropped"
"""The same of a run with a limit."""


@attrs.frozen(kw_only=True)
class Probe:
    """What a run's rows are when they are computed again."""

    verdict: Literal["equal", "close", "not compared"]
    rows: int = 0
    documents: tuple[int, ...] = ()
    layers: tuple[LayerComparison, ...] = ()
    """Those that are close."""
    why: str | None = None
    """Why nothing was compared."""

    def facts(self) -> dict[str, Any]:
        """Return it as it is kept with the session, in plain JSON values."""
        found: dict[str, Any] = {"verdict": self.verdict}
        if self.why is not None:
            return {**found, "why": self.why}
        found |= {"rows": self.rows, "documents": list(self.documents)}
        if self.layers:
            found["layers"] = {
                each.layer: {
                    "dtype": each.dtype,
                    "relative_error": each.relative_error_most,
                    "ulps": each.ulps_most,
                }
                for each in self.layers
            }
        return found


def probe_run(
    store: Store, capture: Capture, writer: RunWriter, error: type[OtherRun] = OtherRun
) -> Probe | None:
    """Compute a few committed rows of a run again; `None` where none is committed.

    Takes one forward, of a batch of the run, and changes nothing. Raises `error`, an `OtherRun`,
    where the rows are not those of the run, and `DamagedStore` where they cannot be read.
    """
    if not writer.committed():
        return None
    run = store.run(writer.run_id)
    if not run.committed:  # it was deleted, and begun anew
        return None
    if run.layers and not run.committed - run.dropped:
        return Probe(verdict="not compared", why=ALL_DROPPED)
    found_rows = _stored_rows(capture, run) if run.layers else _kept_rows(capture, run)
    if found_rows is None:
        if is_of_earlier_version(capture.plan, run.plan):
            why = "it is of an earlier version, which noted less of the model, and has no rows"
            raise error(run.id, [f"{why} to compare"])
        return Probe(verdict="not compared", why=NO_ROWS)
    batch, chosen, stored, dtypes = found_rows
    rows = batch.places(0)[chosen]
    check = RowCheck(run, computing_dtype(capture, run), dtypes)
    _check_tokens(run, batch, chosen, rows, error)
    with threads_of(run.plan):
        check.add(rows, stored, _computed(capture, batch, chosen, dtypes))
    if far := check.furthest:
        others = len(far) - 1
        more = f", and {others} more layer{'s' if others > 1 else ''} too" if others else ""
        raised = error(run.id, [f"{far[0]}{more}"])
        raised.add_note(UNSEEN)
        raise raised
    found = [each for each in check.found() if each.verdict != "equal"]
    return Probe(
        verdict="close" if found else "equal",
        rows=len(rows),
        documents=tuple(sorted({piece.window.document for piece in compared_documents(batch)})),
        layers=tuple(found),
    )


_Found = tuple[Batch, Tensor, Mapping[str, Tensor], Mapping[str, str]]
"""A batch, which of its rows are compared, what is stored of them, and in which dtypes."""


def _stored_rows(capture: Capture, run: Run) -> _Found:
    """Return what to compare of a run that has rows."""
    batch = best_batch([_best_of(capture, run, unit) for unit in _some_units(run)])
    chosen = compared_rows(batch)
    rows = batch.places(0)[chosen]
    dtypes = {layer: run.plan.layer(layer).dtype for layer in run.layers}
    return batch, chosen, {layer: run[layer][rows] for layer in run.layers}, dtypes


def _kept_rows(capture: Capture, run: Run) -> _Found | None:
    """Return what to compare of a run of statistics; `None` if its units keep no rows for it."""
    units = [unit for unit in _some_units(run) if NUMBERS in run.unit_tensors(unit.number)]
    if not units:
        return None
    found = {_best_of(capture, run, unit): unit for unit in units}
    batch = best_batch(found)
    number = found[batch].number
    rows = run.unit_tensor(number, NUMBERS)
    places = batch.places(0)
    chosen = (places == rows[:, None]).nonzero()[:, 1] if rows.ndim == 1 else rows
    stored = {
        layer.name: run.unit_tensor(number, LAYER.format(at))
        for at, layer in enumerate(capture.spec.layers)
    }
    if (
        not len(rows)
        or len(chosen) != len(rows)
        or any(len(e) != len(rows) for e in stored.values())
    ):
        what = f"what it keeps as {NUMBERS!r} are no rows of one of its batches"
        raise DamagedStore(f"unit {number} of run {run.id!r}", what)
    return batch, chosen, stored, {name: dtype_name(each.dtype) for name, each in stored.items()}


def _some_units(run: Run) -> list[Unit]:
    """Return the first, the middle and the last unit that are committed, each once."""
    numbers = sorted(run.committed - run.dropped if run.layers else run.committed)
    if units_held(run.plan) is not None:  # the first may be dropped while they are read
        numbers = numbers[-1:]
    some = {numbers[at] for at in (0, len(numbers) // 2, -1)}
    return [run.plan.unit(number) for number in sorted(some)]


def _best_of(capture: Capture, run: Run, unit: Unit) -> Batch:
    """Return the batch of a unit that says most and costs little."""
    how = Batching.of_spec(run.plan.spec)
    return best_batch(batches(capture.rows.pieces(unit), how, row_bytes=run.plan.row_bytes))


def _check_tokens(
    run: Run, batch: Batch, chosen: Tensor, rows: Tensor, error: type[OtherRun]
) -> None:
    """Raise `error` where a document has other tokens than the run has of it."""
    tokens, documents, positions = (each[chosen] for each in batch.numbers())
    stored = run.tokens[rows]
    wrong = (stored != tokens).nonzero().flatten()
    if len(wrong):
        at = int(wrong[0])
        where = f"token {int(positions[at])} of document {int(documents[at])}"
        raise error(run.id, [f"{where} is {int(stored[at])} there and {int(tokens[at])} here"])


def _computed(
    capture: Capture, batch: Batch, chosen: Tensor, dtypes: Mapping[str, str]
) -> dict[str, Tensor]:
    """Run the batch; return its chosen rows of each layer as a run reads them, on the CPU."""
    seen, picks = capture.forward(batch.documents), batch.picks()
    index = (seen.real if picks is None else seen.real[picks])[chosen]
    found = {}
    for layer, dtype in dtypes.items():
        flat = seen.layers[layer]
        rows = flat.index_select(0, index.to(flat.device))
        if dtype == "int8":
            found[layer] = dequantize(*(each.cpu() for each in quantize(rows)))
        else:
            found[layer] = rows.to(torch_dtype(dtype)).cpu()
    return found
