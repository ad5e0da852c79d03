"""The calls that make a run: all of it, the plan alone, or the part of one process.

What happens in a capture, and where to read on:

1. `prepare` tokenizes all documents, so that each token has its row before the model runs
   (`token_rows`); once, for the tokens are shared with the run (`shared_tokens`). It runs the
   beginning of two to see what each layer gives, and makes the plan: which rows there are, in which
   units, and the spec that the run's id follows from (`identity`).
2. The store makes the run of that plan, or finds it and compares (`beginning`). What is left open
   of the batches is as the run was begun. Of a run that has rows a few are computed again and
   compared (`probe`), for no list of what changes a model is complete.
3. `units` takes the units that have no record, and gives them to an engine (`engine`). Ours does
   one after the other in this process; others have workers elsewhere, which make the capture again
   from what the run holds (`workers`).
4. A worker does a unit (`worker`): batches of documents, a forward each (`forward`), rows chosen on
   the model's device, copied to the CPU (`staging`), written (`writing`), committed as a whole.
5. Units that failed are tried again after the others. Whoever finds that all have their record
   tidies up.

A process may stop anywhere. The same call begins at 1 again, comes to the same plan, and does at 3
what is missing.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from tenterhook_capture.beginning import begin
from tenterhook_capture.documents import Documents
from tenterhook_capture.engine import Engine, LocalEngine, engine_of
from tenterhook_capture.errors import BadArgument, ChangedSince
from tenterhook_capture.option_fields import check_count
from tenterhook_capture.options import CaptureKeywords, CaptureOptions, shows_options
from tenterhook_capture.prepare import prepare_capture
from tenterhook_capture.probe import probe_run
from tenterhook_capture.progress import ProgressCallback, told
from tenterhook_capture.recipe import CaptureRecipe
from tenterhook_capture.shared_tokens import share_tokens
from tenterhook_capture.slices import Slice
from tenterhook_capture.text_model import TextModel
from tenterhook_capture.together import led
from tenterhook_capture.units import TRIES, do_units
from tenterhook_capture.workers import rebuild_capture
from tenterhook_store import Store, check_run_id
from tenterhook_store.limits import units_held


@shows_options
def save_activations(
    model: TextModel,
    layers: str | int | Sequence[str | int],
    documents: Documents | Iterable[Any],
    store: Store,
    *,
    run_name: str | None = None,
    sample_limit: int | None = None,
    inputs: bool = False,
    tries: int = TRIES,
    engine: str | Engine | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[CaptureKeywords],
) -> str:
    """Run the model over the documents and keep what the layers return; return the run's id.

    The run has a row per real token, in the order of the documents, and no padding: for each
    layer `[rows, features]` in the dtype the layer gives (or `dtype`), bit for bit.
    `store.run(id)` reads it. The id is `run_name`, or follows from what is captured.

    What controllers and replacements are at work, registered or in open scopes, is part of what
    the run is, each by its hook's id: changed rows never join those of the model alone.

    The same call again does what is missing, and nothing where nothing is; that is how a capture
    that was stopped or killed goes on. Before, one batch of the run is run again, and a few rows
    are compared with those that it has. Of `documents`, `sample_limit` are taken. With `inputs`
    what the layers are given is kept, not what they return. The other `options` are the fields of
    `CaptureOptions`, each with its meaning there. Documents longer than `model.max_tokens` are cut
    as their tokenizer cuts, and counted in the run's metadata, or with `long_documents="split"` run
    as several; those without a token are skipped and counted. `documents` may be token ids, a list
    for each. Warns `DoubledSpecialToken` of texts that bring a special token which the tokenizer
    puts before them once more.

    With `keep` the run has a limit: units wait until those before are read by all who follow it
    (`tenterhook sae train --follow`), and the store drops these. Without a follower it waits once
    it is full. The limit belongs to the run, which goes on with no other.

    Raises, before anything is made: `UnknownLayer`, `NotPerToken` (a layer without a row per
    token), `NothingToCapture`, `BadName`, `OtherRun` (the run is there and is another one, or its
    rows are not those that this model gives), `MaskIgnored` (padding changes the rows of real
    tokens), `NotWritable`, `BadArgument`, `CannotDrop` (the store cannot drop units,
    which `keep` asks for), and what `make_engine` raises where `engine` is a name.

    A unit that raises is tried again after the others, up to `tries` times in all; if any keeps
    failing the rest is done, and `UnitsFailed` names those and their causes. What is not a unit's
    own trouble is raised at once, as it is: an `OSError` (a disk that is full or gone),
    `DamagedStore`, `DeletedRun`, `MemoryError`, what `progress` raises, Ctrl-C. Each with a note
    on how to resume.
    """
    checked = CaptureOptions.of(options)
    chosen = engine_of(engine)
    check_count("tries", tries)
    if checked.keep is not None:
        _check_engine(chosen, engine)
    if run_name is not None:
        check_run_id(run_name)
    store.check_writable()
    capture = prepare_capture(
        model, layers, documents, options=checked, sample_limit=sample_limit, inputs=inputs
    )

    def lead() -> str:
        writer, begun = begin(store, capture, run_name)
        with told(progress, f"Capturing {writer.run_id}", begun.plan.rows) as tell:
            do_units(
                store,
                begun,
                writer,
                part=None,
                engine=chosen,
                tries=tries,
                progress=tell,
                probe=probe_run(store, begun, writer),
            )
        return writer.run_id

    return led(capture, chosen, lead)


def resume_run(
    store: Store,
    run_id: str,
    *,
    part: Slice | None = None,
    recipe: CaptureRecipe | None = None,
    tries: int = TRIES,
    engine: str | Engine | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Do what is missing of a run, or of a part of its plan, from what the run itself holds.

    Loads the model and reads the data by the names that the run was begun with, or those of
    `recipe`. Any number of processes may do this for one run at once, with parts or without.
    Nothing is loaded where nothing is missing.

    Raises `UnknownRun`, `NotRebuildable` (a run made from what has no name), `ChangedSince` (an
    `OtherRun`: the names give something else now), and what `save_activations` raises.
    """
    chosen = engine_of(engine)
    check_count("tries", tries)
    run = store.run(run_id)
    if units_held(run.plan) is not None:
        _check_engine(chosen, engine)
    units = run.plan.units() if part is None else part.of(run.plan.units())
    if all(unit.number in run.committed for unit in units):
        if run.is_complete:
            store.write_run(run_id, run.plan).finish()
        return
    store.check_writable()
    capture = rebuild_capture(store, run_id, recipe)

    def lead() -> str:
        writer = store.write_run(run_id, run.plan)
        share_tokens(writer, capture.rows, capture.tokens)  # who began it may have been killed
        with told(progress, f"Capturing {writer.run_id}", run.plan.rows) as tell:
            do_units(
                store,
                capture,
                writer,
                part=part,
                engine=chosen,
                tries=tries,
                progress=tell,
                probe=probe_run(store, capture, writer, ChangedSince),
            )
        return writer.run_id

    led(capture, chosen, lead)


def _check_engine(engine: Engine, given: str | Engine | None) -> None:
    """Raise `BadArgument` unless a run with a limit can be written by an engine.

    Units of such a run wait for those before them, which an engine may try again only later.
    """
    if not isinstance(engine, LocalEngine):
        what = "left out, or 'local', for a run with a limit (keep); several processes do slices"
        raise BadArgument("engine", given, what)
