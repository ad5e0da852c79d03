"""`tenterhook work`: do a part of a run that is planned, beside other processes."""

import os
from typing import TYPE_CHECKING, Any

import click

from tenterhook_cli.amounts import progress_of
from tenterhook_cli.options import (
    GroupedCommand,
    all_of,
    engine_option,
    of_run,
    option,
    tries_option,
)
from tenterhook_cli.progress import Remembered, progress_bar, stoppable
from tenterhook_cli.terminal import echo
from tenterhook_store import find_run

if TYPE_CHECKING:
    from tenterhook_capture import CaptureRecipe, Slice
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


@click.command(cls=GroupedCommand)
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
    from tenterhook_capture import Slice, slice_of_launcher

    if part is not None:
        chosen: Slice | None = Slice.parse(part)
    elif taken := slice_of_launcher(os.environ):
        chosen, variables = taken
        echo(f"Slice {chosen}, from {variables}.", err=True)
    else:
        chosen = None
        echo("No --slice, and no variables of a launcher: all units.", err=True)
    do_part(*find_run(store, run), chosen, **settings)


def do_part(
    store: "Store",
    run_id: str,
    part: "Slice | None",
    *,
    tries: int,
    engine: str | None,
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

    if all(each is None for each in (model, data, field, device)) and _local_rank() is None:
        return None
    recipe = CaptureRecipe.of_run(run).elsewhere(model=model, data=data, field=field)
    return recipe.elsewhere(device=_own_device(device, recipe))


def _report(run: "Run", part: "Slice | None", *, done: bool) -> str:
    if not done:
        what = "nothing" if part is None else f"nothing of slice {part}"
        return f"Run {run.id}: {what} was missing; {progress_of(run)}."
    what = "" if part is None else f"slice {part} is done; "
    return f"Run {run.id}: {what}{progress_of(run)}."


def _local_rank() -> int | None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if (found := os.environ.get(name, "")).isdecimal():
            return int(found)
    return None


def _own_device(device: str | None, recipe: "CaptureRecipe") -> str | None:
    """Return the accelerator of this process, where several share a machine and none is named."""
    wanted = device or (recipe.model.device if recipe.model else None)
    rank = _local_rank()
    if wanted != "cuda" or rank is None:
        return device
    import torch

    return f"cuda:{rank % max(torch.cuda.device_count(), 1)}"
