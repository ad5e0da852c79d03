"""The capture itself: plan, do the units that are missing, say what was done."""

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import torch

from tenterhook.capture._errors import BadArgument
from tenterhook.capture._forward import rows_of_batch
from tenterhook.capture._progress import Meter, ProgressCallback
from tenterhook.capture._provenance import environment, now, session_name
from tenterhook.capture._spec import CaptureSpec, model_fingerprint, model_identity
from tenterhook.capture._tokens import LongDocuments, TokenRows, tokenize
from tenterhook.capture._worker import CaptureWorker
from tenterhook.documents import Documents
from tenterhook.engine import Engine, LocalEngine, UnitFailed
from tenterhook.scopes import changes_active
from tenterhook.store import (
    LayerArray,
    RunPlan,
    RunWriter,
    Store,
    check_run_id,
    dtype_name,
    torch_dtype,
)
from tenterhook.text_model import TextModel

ROWS_PER_UNIT = 32_768
"""Rows of a unit unless something else is asked for: what is lost to a crash at most."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


def save_activations(
    model: TextModel,
    layers: str | int | Sequence[str | int],
    documents: Documents | Iterable[str],
    store: Store,
    *,
    run_name: str | None = None,
    batch_size: int = 32,
    sample_limit: int | None = None,
    dtype: str | torch.dtype | None = None,
    long_documents: LongDocuments = "truncate",
    rows_per_unit: int = ROWS_PER_UNIT,
    engine: Engine | None = None,
    progress: ProgressCallback | None = None,
) -> str:
    """Run the model over the documents and keep what the layers return; return the run's id.

    The run has a row per real token, in the order of the documents, and no padding: for each
    layer `[rows, features]` in the dtype the layer gives (or `dtype`), bit for bit.
    `store.run(id)` reads it. The id is `run_name`, or follows from what is captured.

    What controllers and replacements are at work, registered or in open scopes, is part of what
    the run is, each by its hook's id: changed rows never join those of the model alone.

    The same call again does what is missing, and nothing where nothing is; that is how a capture
    that was stopped or killed goes on. Of `documents`, `sample_limit` are taken. Documents longer
    than `model.max_tokens` are cut, and counted in the run's metadata, or with
    `long_documents="split"` run as several; those without a token are skipped and counted.

    Raises, before anything is made: `UnknownLayer`, `NotPerToken` (a layer without a row per
    token), `NothingToCapture`, `BadName`, `OtherRun` (the run is there and is another one),
    `NotWritable`, `BadArgument`. What a unit raises is raised as
    it is, with a note on how to resume.
    """
    _check_numbers(batch_size=batch_size, rows_per_unit=rows_per_unit, sample_limit=sample_limit)
    wanted = _wanted_dtype(dtype)
    if run_name is not None:
        check_run_id(run_name)
    store.check_writable()
    names = _layer_names(model, layers)
    documents = Documents.of(documents).first(sample_limit)
    tokens = tokenize(model, documents, long_documents=long_documents)
    description = model.describe_model()
    spec = CaptureSpec(
        model=model.context.model_id,
        model_fingerprint=model_fingerprint(description),
        layers=_arrays(model, names, tokens, wanted),
        documents_fingerprint=documents.fingerprint,
        documents=len(documents),
        max_tokens=model.max_tokens,
        long_documents=long_documents,
        batch_size=batch_size,
        rows_per_unit=rows_per_unit,
        changes=tuple(changes_active(model.layers)),
    )
    plan = RunPlan(
        rows=len(tokens),
        rows_per_unit=rows_per_unit,
        documents=len(documents),
        layers=spec.layers,
        spec=spec.values(),
        about={
            "model": model_identity(description),
            "documents": documents.describe(),
            "counts": attrs.asdict(tokens.counts),
            "spellings": _spellings(model, names),
        },
    )
    writer = store.write_run(run_name or spec.run_id(), plan)
    session = {**environment(), "model": description, "documents": documents.describe()}
    _do_units(model, tokens, writer, session, batch_size, engine or LocalEngine(), progress)
    return writer.run_id


def _do_units(
    model: TextModel,
    tokens: TokenRows,
    writer: RunWriter,
    session: dict[str, Any],
    batch_size: int,
    engine: Engine,
    progress: ProgressCallback | None,
) -> None:
    plan, committed = writer.plan, writer.committed()
    todo = [unit for unit in plan.units() if unit.number not in committed]
    done = plan.rows - sum(unit.rows for unit in todo)
    meter = Meter(
        progress,
        run_id=writer.run_id,
        rows=done,
        rows_total=plan.rows,
        row_bytes=plan.row_bytes,
    )
    meter.add(0)
    if todo:
        with _Session(writer, session):
            make = _worker_factory(model, tokens, writer, batch_size, meter)
            for event in engine.run(todo, make):
                if isinstance(event, UnitFailed):
                    event.error.add_note(f"This was unit {event.unit.number} of the run.")
                    raise event.error
    writer.finish()


def _worker_factory(
    model: TextModel, tokens: TokenRows, writer: RunWriter, batch_size: int, meter: Meter
) -> Any:
    return lambda: CaptureWorker(model, tokens, writer, batch_size=batch_size, on_rows=meter.add)


class _Session:
    """Notes when this process's part of a run began and ended, and how; tells how to resume."""

    def __init__(self, writer: RunWriter, facts: dict[str, Any]) -> None:
        self._writer = writer
        self._name = session_name()
        self._facts = {**facts, "start": now(), "end": None, "outcome": None}

    def __enter__(self) -> None:
        self._writer.note_session(self._name, self._facts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        outcome = "done" if kind is None else f"stopped by {kind.__name__}"
        if error is not None:
            error.add_note(self._how_to_resume())
        try:
            self._writer.note_session(self._name, {**self._facts, "end": now(), "outcome": outcome})
        except OSError:
            # A disk that is full or gone has stopped the run; its own error is the one to show.
            if error is None:
                raise

    def _how_to_resume(self) -> str:
        plan = self._writer.plan
        rows = sum(plan.unit(number).rows for number in self._writer.committed())
        return (
            f"Run {self._writer.run_id!r} has {rows} of {plan.rows} rows; "
            "the same command again does the rest."
        )


def _layer_names(model: TextModel, layers: str | int | Sequence[str | int]) -> list[str]:
    """Return the layers' own names, each once, in the model's order."""
    choices = [layers] if isinstance(layers, str | int) else list(layers)
    if not choices:
        raise BadArgument("layers", layers, "one layer at least")
    if "" in choices:
        raise BadArgument("layer", "", "the name of a layer; 'output' is what the model returns")
    found = {layer.name for layer in model.layers.index.expand(choices)}
    known = [name for name in model.layers.list_layers() if name in found]
    return known + sorted(found.difference(known))


def _arrays(
    model: TextModel, names: Sequence[str], tokens: TokenRows, dtype: str | None
) -> tuple[LayerArray, ...]:
    """Run the first documents and return what each layer gives.

    Two, so that a layer that has nothing of the batch in it is found out before anything is made.
    """
    probe = [tokens.window(at).ids for at in range(min(2, tokens.window_count))]
    rows = rows_of_batch(model, probe, names)
    return tuple(
        LayerArray(name, rows[name].shape[1], dtype or dtype_name(rows[name].dtype))
        for name in names
    )


def _spellings(model: TextModel, names: Sequence[str]) -> dict[str, str]:
    """Return the other names of the layers: `layer_N`, and indices as text."""
    known, blocks = model.layers.list_layers(), model.layers.list_blocks()
    found = {f"layer_{at}": name for at, name in enumerate(blocks) if name in names}
    for name in names:
        if name in known:
            at = known.index(name)
            found |= {str(at): name, str(at - len(known)): name}
    return found


def _wanted_dtype(dtype: str | torch.dtype | None) -> str | None:
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else dtype_name(dtype)
    if name not in FLOATS:
        raise BadArgument("dtype", name, f"one of {', '.join(FLOATS)}")
    return dtype_name(torch_dtype(name))


def _check_numbers(**numbers: object) -> None:
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise BadArgument(name, number, "a whole number, 1 or more")
