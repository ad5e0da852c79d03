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
the same. It is the smallest that says something, of the first, the middle and the last unit that
are committed, and of its documents a few are compared.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from tenterhook_capture.batches import Batch, batches
from tenterhook_capture.batching import Batching
from tenterhook_capture.identity import is_of_earlier_version
from tenterhook_capture.prepare import Capture
from tenterhook_capture.row_check import RowCheck, computing_dtype
from tenterhook_capture.threads import threads_of
from tenterhook_capture.token_rows import Piece
from tenterhook_store import (
    LayerComparison,
    OtherRun,
    Run,
    RunWriter,
    Store,
    dequantize,
    quantize,
    torch_dtype,
)

TOKENS = 64
"""A batch of fewer says little: of one token, what attention does is not seen."""

DOCUMENTS = 8
"""Documents of the batch whose rows are compared."""

ROWS = 32
"""The rows of each document that are compared: its last, which depend on all before them."""

LOOKED_AT = 256
"""Batches of a unit that are looked at for a small one."""

UNSEEN = (
    "All that can be read of the model is what it was, so something that no list has changes its "
    "numbers: a torch hook, a patched forward, a function that was swapped, or chance. "
    "`tenterhook runs reproduce` compares more of the run."
)
"""What is to be thought of rows that are not those of the run."""


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
    if not run.layers:
        if is_of_earlier_version(capture.plan, run.plan):
            why = "it is of an earlier version, which noted less of the model, and has no rows"
            raise error(run.id, [f"{why} to compare"])
        return Probe(verdict="not compared", why="the run has statistics and no rows")
    batch = _batch(capture, run)
    chosen = _chosen(batch)
    check = RowCheck(run, computing_dtype(capture, run))
    rows = (batch.places(0))[chosen]
    order = rows.argsort()
    chosen, rows = chosen[order], rows[order]
    _check_tokens(run, batch, chosen, rows, error)
    with threads_of(run.plan):
        check.add(rows, _computed(capture, batch, chosen))
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
        documents=tuple(sorted({piece.window.document for piece in _few(batch)})),
        layers=tuple(found),
    )


def _batch(capture: Capture, run: Run) -> Batch:
    """Return a batch of the run: the smallest of enough tokens, or the largest that there is."""
    numbers = sorted(run.committed)
    some = {numbers[at]: run.plan.unit(numbers[at]) for at in (0, len(numbers) // 2, -1)}
    how, row_bytes = Batching.of_spec(run.plan.spec), run.plan.row_bytes
    found: list[Batch] = []
    for unit in some.values():
        made = batches(capture.rows.pieces(unit), how, row_bytes=row_bytes)
        found += islice(made, LOOKED_AT)
    sizes = [batch.tokens_computed for batch in found]
    return found[
        min(range(len(found)), key=lambda at: (sizes[at] < TOKENS, abs(sizes[at] - TOKENS)))
    ]


def _few(batch: Batch) -> Sequence[Piece]:
    """Return the pieces that are compared: spread over the batch, whose order may be by length."""
    step = -(-len(batch.pieces) // DOCUMENTS)
    return batch.pieces[::step]


def _chosen(batch: Batch) -> Tensor:
    """Return which rows of the batch are compared, int64 `[rows]`, from 0."""
    few, first = {id(piece) for piece in _few(batch)}, 0
    found: list[int] = []
    for piece in batch.pieces:
        stop = first + len(piece.offsets)
        if id(piece) in few:
            found += range(max(first, stop - ROWS), stop)
        first = stop
    return torch.tensor(found)


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


def _computed(capture: Capture, batch: Batch, chosen: Tensor) -> dict[str, Tensor]:
    """Run the batch; return its chosen rows of each layer as a run reads them, on the CPU."""
    seen, picks = capture.forward(batch.documents), batch.picks()
    index = (seen.real if picks is None else seen.real[picks])[chosen]
    found = {}
    for layer in capture.spec.layers:
        flat = seen.layers[layer.name]
        rows = flat.index_select(0, index.to(flat.device))
        if layer.dtype == "int8":
            found[layer.name] = dequantize(*(each.cpu() for each in quantize(rows)))
        else:
            found[layer.name] = rows.to(torch_dtype(layer.dtype)).cpu()
    return found
