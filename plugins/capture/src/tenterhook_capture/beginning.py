"""The run of a capture: made, or found as it was begun.

How many tokens run at once may be left open, and is chosen then; another machine may choose
another number, and earlier versions had another default. A run goes on in the batches that it was
begun in. So what is left open is looked up in the run, where there is one already.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import attrs

from tenterhook_capture.batching import Batching, leaves_budget_open
from tenterhook_capture.engine import LocalEngine
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.identity import (
    CaptureSpec,
    differences,
    earlier_run_ids,
    is_of_earlier_version,
)
from tenterhook_capture.prepare import Capture
from tenterhook_capture.shared_tokens import (
    TOKENS,
    share_hashes,
    share_tokens,
    shared_rows,
    token_difference,
)
from tenterhook_capture.together import led
from tenterhook_capture.unit_rows import UnitsRounded, rounded_rows
from tenterhook_store import (
    CannotDrop,
    DropsUnits,
    OtherRun,
    Run,
    RunPlan,
    RunWriter,
    Store,
    UnknownRun,
)
from tenterhook_store.limits import KEEP, unit_bytes, units_held

EARLIER = (
    "An earlier version of tenterhook began it, and noted less of a model than this one does. If "
    "the model is the same, go on with that version, or save it anew under another run name."
)
"""What is to be done about a run that this version cannot tell to be of the same model."""

CUT = (
    "It keeps the first tokens alone of a document that is too long, as earlier versions did. Go "
    "on with it by long_documents='head' (--long-documents head), or `tenterhook runs resume`."
)
"""What is to be done about a run that was begun before documents were cut as tokenizers cut."""


def begin_run(store: Store, capture: Capture, run_name: str | None = None) -> RunWriter:
    """Make the run in the store, or open the one that is there, and do nothing of it.

    Raises `OtherRun` where the run is another one, `BadName`, `NotWritable`; of a run that is not
    there yet `MaskIgnored`, where padding changes the rows of real tokens.
    """
    made: list[RunWriter] = []

    def lead() -> str:
        writer, _ = begin(store, capture, run_name)
        made.append(writer)
        return writer.run_id

    run_id = led(capture, LocalEngine(), lead)
    return made[0] if made else store.write_run(run_id, store.run(run_id).plan)


def begin(store: Store, capture: Capture, run_name: str | None = None) -> tuple[RunWriter, Capture]:
    """Do what `begin_run` does; return the writer, and the capture in the run's batches.

    The tokens are shared with the run, for all who go on with it.
    """
    run_id, found = as_begun(store, capture, run_name)
    check_limit(store, found.plan)
    if not _is_there(store, run_id):
        found.check_mask()
    try:
        writer = store.write_run(run_id, found.plan)
    except OtherRun:
        # A machine that chose another budget may have begun it since we looked.
        run_id, found = as_begun(store, capture, run_name)
        begun = store.run(run_id).plan
        if differing := differences(found.plan, begun):
            error = OtherRun(run_id, differing)
            if is_of_earlier_version(found.plan, begun) and "model not the same" in differing:
                error.add_note(EARLIER)
            if found.spec.cut is not None and "cut" not in begun.spec:
                error.add_note(CUT)
            raise error from None
        writer = store.write_run(run_id, begun)
    if (keep := writer.plan.about.get(KEEP)) != (asked := found.plan.about.get(KEEP)):
        raise OtherRun(run_id, [f"keep is {keep} there and {asked} here"])
    check_tokens(found, store.run(run_id), OtherRun)
    share_tokens(writer, found.rows, found.tokens)
    if found.hashes is not None:
        share_hashes(writer, found.hashes)
    return writer, found


def check_limit(store: Store, plan: RunPlan) -> None:
    """Raise unless a run of that plan has no limit, or one that it can have in that store.

    `CannotDrop`, and `BadArgument` for a limit that is smaller than a unit.
    """
    held = units_held(plan)
    if held is None:
        return
    if not isinstance(store, DropsUnits):
        raise CannotDrop(store.location)
    if not held:
        least = f"{unit_bytes(plan)} or more, the bytes of one unit; or give fewer rows_per_unit"
        raise BadArgument("keep", plan.about[KEEP], least)


def check_tokens(capture: Capture, run: Run, error: type[OtherRun]) -> None:
    """Raise `error` where the documents give other tokens than the run was begun with.

    The same documents and the same tokenizer do, in another version of its library.
    """
    if run.plan.about.get(TOKENS, capture.tokens.fingerprint) == capture.tokens.fingerprint:
        return
    shared = shared_rows(run, capture.model)
    found = "tokens not the same" if shared is None else token_difference(capture.rows, shared[0])
    raise error(run.id, [found])


def _is_there(store: Store, run_id: str) -> bool:
    try:
        store.run(run_id)
    except UnknownRun:
        return False
    return True


def as_begun(store: Store, capture: Capture, run_name: str | None = None) -> tuple[str, Capture]:
    """Return the id of a capture's run, and the capture in the batches that it was begun in.

    Where there is no such run yet, they are those that the capture has, and its units are rounded,
    with a warning `UnitsRounded`. Makes nothing.
    """
    asked = capture
    capture = _in_units(asked, rounded_rows(asked.plan.rows_per_unit))
    meant = [capture] if capture is asked else [capture, asked]
    before = Batching.earlier(capture.options)
    if Batching.of_spec(capture.plan.spec) != before:  # something was left open
        meant += [_in_batches(each, before) for each in meant]
    own_id = run_name or capture.spec.run_id()
    ids = [own_id]
    if run_name is None:  # earlier versions noted less of a model, and had other ids
        noted = capture.plan.about["model"]
        ids += [
            id for each in meant for id in (each.spec.run_id(), *earlier_run_ids(each.spec, noted))
        ]
    for run_id in dict.fromkeys(ids):
        try:
            begun = store.run(run_id).plan
        except UnknownRun:
            continue
        found = _as_in(begun, meant)
        if run_id == own_id or not differences(found.plan, begun):
            return run_id, found
    if capture is not asked:
        sizes = asked.plan.rows_per_unit, capture.plan.rows_per_unit
        warnings.warn(UnitsRounded(*sizes), stacklevel=3)
    return own_id, capture


def _as_in(begun: RunPlan, meant: Sequence[Capture]) -> Capture:
    """Return a capture in the units of a run, and in its batches, if what was left open means that.

    The first of those that are meant, where none is.
    """
    in_units = [each for each in meant if each.plan.rows_per_unit == begun.rows_per_unit]
    meant = in_units or meant
    theirs = Batching.of_spec(begun.spec)
    for each in meant:
        if Batching.of_spec(each.plan.spec) == theirs:
            return each
    capture = meant[0]
    if theirs.batch_tokens is None or not leaves_budget_open(capture.options):
        return capture
    # Another number of tokens is the same capture, on another machine.
    ours = Batching.of_spec(capture.plan.spec)
    return _in_batches(capture, attrs.evolve(ours, batch_tokens=theirs.batch_tokens))


def _in_units(capture: Capture, rows: int) -> Capture:
    """Return the capture in units of so many rows; itself, where it has those."""
    if rows == capture.plan.rows_per_unit:
        return capture
    spec = attrs.evolve(capture.spec, rows_per_unit=rows)
    found = _with(capture, spec, rows_per_unit=rows)
    return attrs.evolve(found, plan=attrs.evolve(found.plan, rows_per_unit=rows))


def _in_batches(capture: Capture, how: Batching) -> Capture:
    """Return the capture in other batches."""
    chosen = capture.spec.budget_chosen and how.batch_size is None
    spec = attrs.evolve(capture.spec, **how.values(), budget_chosen=chosen)
    return _with(capture, spec, **how.values())


def _with(capture: Capture, spec: CaptureSpec, **options: Any) -> Capture:
    """Return the capture of another spec, in all that says so: the recipe has these options."""
    recipe = attrs.evolve(capture.recipe, options=attrs.evolve(capture.recipe.options, **options))
    about = {**capture.plan.about, "recipe": recipe.values()}
    plan = attrs.evolve(capture.plan, spec=spec.values(), about=about)
    return attrs.evolve(capture, spec=spec, recipe=recipe, plan=plan)
