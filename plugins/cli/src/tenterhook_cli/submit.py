"""`tenterhook submit`: have tasks of a Slurm job do what is missing of a run."""

import json
from typing import TYPE_CHECKING, Any

import attrs
import click

from tenterhook_capture.slurm_job import SlurmOptions
from tenterhook_cli.amounts import many, progress_of
from tenterhook_cli.described_options import described_options
from tenterhook_cli.options import (
    GroupedCommand,
    as_json_option,
    count,
    of_run,
    option,
    tries_option,
)
from tenterhook_cli.progress import progress_bar, stoppable
from tenterhook_cli.terminal import echo
from tenterhook_cli.work import places
from tenterhook_store import find_run

if TYPE_CHECKING:
    from tenterhook_capture.slurm_slices import SlicedRun


@click.command(cls=GroupedCommand)
@of_run
@count("--tasks", "Into how many slices the run is cut, a task each.", default=2, group="Run")
@option(
    "--detach",
    is_flag=True,
    group="Run",
    help="Do not wait for the job. Nobody submits again then what it leaves undone.",
)
@option(
    "--print",
    "--dry-run",
    "print_only",
    is_flag=True,
    group="Run",
    help="Write the script, to be submitted by sbatch, and submit nothing.",
)
@tries_option
@count(
    "--processes",
    "Have each task do its units in so many processes of its own (engine processes).",
    group="Run",
)
@described_options(SlurmOptions)
@places
@as_json_option
@stoppable()
def submit(
    store: str,
    run: str | None,
    *,
    tasks: int,
    detach: bool,
    print_only: bool,
    tries: int,
    processes: int | None,
    device: str | None,
    model: str | None,
    data: str | None,
    field: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Submit an array job to Slurm that does what is missing of RUN in STORE.

    Each task is `tenterhook work` of a slice of the run; every node must see STORE. It waits for
    the job and submits again what tasks that were killed have left; Ctrl-C cancels it. With
    --detach `tenterhook runs status STORE RUN --watch` says how far it is.
    """
    from tenterhook_capture.slurm_slices import NotShared, SlicedRun

    if store.startswith("memory:"):
        raise NotShared(store)
    opened, run_id = find_run(store, run)
    named = {"device": device, "model": model, "data": data, "field": field}
    sliced = SlicedRun(
        store=opened,
        run_id=run_id,
        tasks=tasks,
        options=SlurmOptions(**options),
        tries=tries,
        processes=processes,
        places={name: text for name, text in named.items() if text is not None},
    )
    if print_only:
        click.echo(sliced.script(), nl=False)
        return
    if sliced.run().is_complete:
        echo(f"Run {run_id}: nothing was missing; {progress_of(sliced.run())}.")
        return
    _advise(sliced)
    if detach:
        _detached(sliced, as_json)
        return
    with progress_bar() as show:
        sliced.do(progress=show, on_job=lambda said: echo(said, err=True))
    found = sliced.run()
    if as_json:
        facts = {"store": opened.location, "run": run_id, "rows": found.rows_committed}
        click.echo(json.dumps({**facts, "complete": found.is_complete}, indent=2))
    else:
        echo(f"Run {run_id}: {progress_of(found)}.")


def _advise(sliced: "SlicedRun") -> None:
    """Say where tasks have fewer CPUs than the run has threads, which is slow."""
    threads = sliced.run().plan.about.get("threads")
    asked = sliced.options.cpus_per_task or 1
    if isinstance(threads, int) and threads > asked:
        echo(
            f"hint: this run has {threads} threads for each operation, and a task "
            f"{many(asked, 'CPU')}: --cpus-per-task {threads} gives it as many.",
            err=True,
        )


def _detached(sliced: "SlicedRun", as_json: bool) -> None:
    job = sliced.submit()
    store, run_id = sliced.store.location, sliced.run_id
    if as_json:
        click.echo(json.dumps({"store": store, "run": run_id, **attrs.asdict(job)}, indent=2))
        return
    echo(
        f"Job {job.id} does run {run_id}.",
        f"  tenterhook runs status {store} {run_id} --watch   # how far it is",
        f"  scancel {job.id}   # stops it",
        "The same command again does what it leaves undone.",
    )
