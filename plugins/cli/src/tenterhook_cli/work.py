"""`tenterhook work`: do a part of a run that is planned, beside other processes."""

import os
from typing import TYPE_CHECKING, Any

import click

from tenterhook_cli.amounts import progress_of
from tenterhook_cli.engine_options import EngineCommand, engine_option
from tenterhook_cli.options import (
    all_of,
    of_run,
    option,
    tries_option,
)
from tenterhook_cli.progress import Remembered, progress_bar, stoppable
from tenterhook_cli.terminal import echo
from tenterhook_store import find_run

if TYPE_CHECKING:
    from tenterhook_capture import CaptureRecipe, Slice
    from tenterhook_capture.engine import Engine
    from tenterhook_store import Run, Store


PLACES = "Model and data"

places = all_of(
    option("--device", group=PLACES, help="Where the model runs, for example cuda."),
    option(
        "--model",
        group=PLACES,
        help="Where the run's model is on this machine, if elsewhere.",
    ),
    option(
        "--data",
        group=PLACES,
        help="Where the run's data is on this machine, if elsewhere.",
    ),
    option(
        "--field",
        group=PLACES,
        help="The field of a record that holds the text, with --data.",
    ),
)
"""The options that say where a run's model and data are on this machine."""

elsewhere = all_of(tries_option, engine_option, places)
"""Those, and how units are done."""


@click.command(cls=EngineCommand)
@of_run
@option(
    "--slice",
    "part",
    metavar="I/N",
    group="Run",
    help="Part I of N of the plan, counted from 0.",
)
@elsewhere
@stoppable()
def work(store: str, run: str | None, *, part: str | None, **settings: Any) -> None:
    """Do the units that are missing of RUN in STORE, or of a slice of its plan.

    STORE/runs/RUN names it too. Without --slice the variables of torchrun, Slurm or a Kubernetes
    indexed job say which part is this process's; without those it is all of them. Any number of
    processes may work at once, here and on other machines; a unit that is done is never done again.
    """
    from tenterhook_capture import CaptureRecipe, Slice, slice_of_launcher

    place, run_id = find_run(store, run)
    begun = place.run(run_id)
    has_recipe = begun.plan.about.get("recipe") is not None
    model = CaptureRecipe.of_run(begun).model if has_recipe else None
    if part is not None:
        chosen: Slice | None = Slice.parse(part)
    elif model is not None and model.tp_plan is not None:
        chosen = None  # a launcher's processes share this model, and not the units
    elif taken := slice_of_launcher(os.environ):
        chosen, variables = taken
        echo(f"Slice {chosen}, from {variables}.", err=True)
    else:
        chosen = None
        echo("No --slice, and no variables of a launcher: all units.", err=True)
    do_part(place, run_id, chosen, **settings)


def do_part(
    store: "Store",
    run_id: str,
    part: "Slice | None",
    *,
    tries: int,
    engine: "Engine | None",
    device: str | None,
    model: str | None,
    data: str | None,
    field: str | None,
) -> None:
    """Do what is missing of a run or of a slice, and say what is missing still."""
    from tenterhook_capture import resume_run

    recipe = recipe_for(store.run(run_id), device=device, model=model, data=data, field=field)
    with progress_bar() as show:
        progress = Remembered(show)
        resume_run(
            store, run_id, part=part, recipe=recipe, tries=tries, engine=engine, progress=progress
        )
    run = store.run(run_id)
    echo(_report(run, part, done=bool(progress.rows_new)))


def recipe_for(
    run: "Run", *, device: str | None, model: str | None, data: str | None, field: str | None
) -> "CaptureRecipe | None":
    """Return a run's recipe with the names of this machine; `None` where they are its own."""
    from tenterhook_capture import CaptureRecipe
    from tenterhook_capture.workers import LOCAL_RANKS, own_device

    ranks = map(os.environ.get, LOCAL_RANKS)
    if all(each is None for each in (model, data, field, device, *ranks)):
        return None
    recipe = CaptureRecipe.of_run(run).elsewhere(model=model, data=data, field=field)
    return recipe.elsewhere(device=own_device(recipe, device))


def _report(run: "Run", part: "Slice | None", *, done: bool) -> str:
    if not done:
        what = "nothing" if part is None else f"nothing of slice {part}"
        return f"Run {run.id}: {what} was missing; {progress_of(run)}."
    what = "" if part is None else f"slice {part} is done; "
    return f"Run {run.id}: {what}{progress_of(run)}."
