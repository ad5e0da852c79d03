"""`tenterhook capture`: run a model over data and keep what its layers return."""

import json
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs
import click
from click.core import ParameterSource

from tenterhook.plugins import default_manager
from tenterhook_capture.options import CaptureOptions
from tenterhook_cli.amounts import many
from tenterhook_cli.contents import batches_of, contents_of, remarks_on, rows_of
from tenterhook_cli.described_options import described_options
from tenterhook_cli.dry_run import batches_in, would_be
from tenterhook_cli.engine_options import CHOSEN, EngineCommand, engine_option
from tenterhook_cli.options import (
    as_json_option,
    choice,
    count,
    option,
    plain_value,
    tries_option,
)
from tenterhook_cli.progress import Remembered, documents_bar, progress_bar, stoppable
from tenterhook_cli.terminal import echo

if TYPE_CHECKING:
    from tenterhook_capture import Capture, CaptureRecipe
    from tenterhook_capture.engine import Engine
    from tenterhook_store import Run, Store

WITH_SPEC = {
    "model",
    "--out",
    "--run-name",
    "--device",
    "--tries",
    "--engine",
    "--dry-run",
    "--plan",
    "--json",
}
"""What may stand beside a file that says what is captured."""


@click.command(cls=EngineCommand)
@click.argument("model")
@option(
    "--layer",
    "layers",
    multiple=True,
    metavar="LAYER",
    group="What is captured",
    help="A layer: its dotted name, layer_N, or a pattern such as 'transformer.h.*.mlp'; with "
    ":input or :attention after it, that instead of its output; with :call=2, its third call of a "
    "forward. Repeat.",
)
@option(
    "--inputs",
    is_flag=True,
    group="What is captured",
    help="Keep what the layers are given; for one of them, write LAYER:input.",
)
@option(
    "--data",
    metavar="NAME",
    group="What is captured",
    help="A file or folder of text, JSON lines, CSV or Parquet, a Hugging Face data set, or a name "
    "with a scheme: tiny:sample.",
)
@option(
    "--field",
    group="What is captured",
    help="The field of a record that holds the text, the messages or the token ids.",
)
@option(
    "--keep-field",
    "keep_fields",
    multiple=True,
    metavar="FIELD",
    group="What is captured",
    help="Keep this field of the records: run.documents['FIELD']. Repeat.",
)
@option(
    "--skip-bad-records",
    is_flag=True,
    group="What is captured",
    help="Leave out records that cannot be read or encoded, and count them.",
)
@choice(
    "--sample-by",
    ["line", "paragraph", "document"],
    "What is a document in a text file.",
    group="What is captured",
)
@count("--sample-limit", "Take so many documents.", group="What is captured")
@option(
    "--out",
    metavar="STORE",
    group="Run",
    help="The folder of the store, or its URL (s3://, gs://, az://); made if it is not there. "
    "Required but for --dry-run.",
)
@option(
    "--run-name",
    metavar="ID",
    group="Run",
    help="The run's id, instead of one that follows from what is captured.",
)
@tries_option
@engine_option
@option(
    "--dry-run",
    is_flag=True,
    group="Run",
    help="Run a few batches, say what the run would be and take, and make nothing.",
)
@option(
    "--plan",
    "plan_only",
    is_flag=True,
    group="Run",
    help="Make the run and do no unit of it; print the commands that do.",
)
@option(
    "--device",
    group="Model",
    help="Where the model runs, for example cuda; the loader chooses.",
)
@option("--revision", group="Model", help="The model's revision on the hub.")
@option(
    "--attn-implementation",
    metavar="NAME",
    group="Model",
    help="How the model computes attention: 'eager' gives the patterns that LAYER:attention keeps.",
)
@option(
    "--device-map",
    callback=plain_value,
    metavar="MAP",
    group="Model",
    help="Lay parts of the model on several devices, in memory and on the disk: auto, or devices "
    "by module name, as JSON or a file of it.",
)
@option(
    "--tp-plan",
    callback=plain_value,
    metavar="PLAN",
    group="Model",
    help="Have the processes that torchrun starts share each layer: auto, or a plan as JSON.",
)
@option(
    "--quantization-config",
    callback=plain_value,
    metavar="CONFIG",
    group="Model",
    help="Keep weights in fewer bits: int8, fp8, quanto-int8, bnb-8bit, bnb-4bit, ..., or settings "
    "as JSON or a file of it.",
)
@described_options(CaptureOptions)
@as_json_option
@click.pass_context
@stoppable()
def capture(
    ctx: click.Context,
    /,
    model: str,
    layers: tuple[str, ...],
    data: str | None,
    out: str | None,
    *,
    field: str | None,
    keep_fields: tuple[str, ...],
    skip_bad_records: bool,
    sample_by: Any,
    run_name: str | None,
    sample_limit: int | None,
    device: str | None,
    revision: str | None,
    attn_implementation: str | None,
    device_map: Any,
    tp_plan: Any,
    quantization_config: Any,
    tries: int,
    engine: "Engine | None",
    dry_run: bool,
    plan_only: bool,
    as_json: bool,
    inputs: bool,
    **options: Any,
) -> None:
    """Run MODEL over data and keep, for each token, what layers return.

    MODEL is a name on the Hugging Face hub, a folder, or `tiny:`; or a file, .toml, .yaml or .json,
    that says model, data, layers and options. The same command again goes on with a run that was
    stopped, and does nothing where it is complete.
    """
    from tenterhook_capture.documents import read_documents
    from tenterhook_capture.engine import engine_of
    from tenterhook_store import LocalStore, check_run_id

    if dry_run and plan_only:
        raise click.UsageError("--dry-run makes nothing and --plan makes the run: give one.")
    if out is None and not dry_run:
        raise click.MissingParameter(ctx=ctx, param_hint="'--out'", param_type="option")
    if out is not None and out.startswith("memory:") and not dry_run:
        raise click.UsageError(
            f"--out {out}: what is kept in memory is gone when this command ends. "
            "Name a folder, or the URL of an object store."
        )
    if run_name is not None:
        check_run_id(run_name)
    # None is started for a dry run, which works out what one on another machine would take.
    units_by = None if dry_run else engine_of(engine)
    if out is None:
        # One of the default kind, which says how many files there would be.
        store = LocalStore(ctx.with_resource(TemporaryDirectory()))
    else:
        store = LocalStore(out)
        store.check_writable()
    file = _named_file(ctx, model)
    is_said = ctx.get_parameter_source("sample_by") is ParameterSource.COMMANDLINE
    documents = None
    if not file:
        documents = read_documents(
            data or "",
            field=field,
            sample_by=sample_by if is_said else None,
            skip_bad_records=skip_bad_records,
            keep_fields=keep_fields,
        )

    from tenterhook_capture import (  # imports torch
        as_begun,
        prepare_capture,
        save_activations,
    )
    from tenterhook_capture.loading import load_model
    from tenterhook_capture.together import leads

    if file:
        recipe = _read_recipe(file).elsewhere(device=device)
        assert recipe.model is not None
        assert recipe.data is not None
        layers, sample_limit = recipe.layers, recipe.documents
        documents, loaded = recipe.data.read(), recipe.model.load()
        chosen = recipe.options
    else:
        chosen = _chosen(ctx, options)
        loaded = load_model(
            model,
            device=device,
            revision=revision,
            attn_implementation=attn_implementation,
            device_map=device_map,
            tp_plan=tp_plan,
            quantization_config=quantization_config,
        )
    assert documents is not None
    if dry_run or plan_only:
        with documents_bar() as show_documents:
            prepared = prepare_capture(
                loaded,
                layers,
                documents,
                options=chosen,
                sample_limit=sample_limit,
                inputs=inputs,
                on_documents=show_documents,
            )
        run_id, prepared = as_begun(store, prepared, run_name)
        if dry_run:
            if leads(prepared):
                echo("Running the first batches to measure them.", err=True)
            place = None if out is None else store.location
            workers = (ctx.meta[CHOSEN], engine) if engine is not None else None
            said = would_be(store, prepared, run_id, as_json, place=place, workers=workers)
        else:
            said = _plan(store, prepared, run_id, as_json)
        if leads(prepared):  # of the processes that share a model one tells
            echo(*said.split("\n"))
        return
    with progress_bar() as show:
        progress = Remembered(show)
        run_id = save_activations(
            loaded,
            layers,
            documents,
            store,
            run_name=run_name,
            sample_limit=sample_limit,
            inputs=inputs,
            tries=tries,
            engine=units_by,
            progress=progress,
            **attrs.asdict(chosen),
        )
    run = store.run(run_id)
    if not progress.rows_new:
        echo("This run was complete already; there was nothing to do.", err=True)
    if as_json:
        click.echo(json.dumps(_summary(store, run), indent=2))
    else:
        echo(*_report(store, run).split("\n"))


def _chosen(ctx: click.Context, options: dict[str, Any]) -> CaptureOptions:
    """Return what the options of the command line say; the class has the defaults of the others."""
    given = {
        name: value
        for name, value in options.items()
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if given.get("keep_rows") and "reduce" not in given:
        raise click.UsageError("--keep-rows goes with --reduce; without it rows are kept anyway.")
    if "top_k" in given and "topk" not in given.get("reduce", ""):
        raise click.UsageError("--top-k goes with --reduce topk, and says how many that keeps.")
    return CaptureOptions(**given)


def _named_file(ctx: click.Context, model: str) -> str | None:
    """Return the file that says what to capture, if MODEL is one; check which options are there."""
    given = {
        each.opts[0]
        for each in ctx.command.params
        if each.name and ctx.get_parameter_source(each.name) is ParameterSource.COMMANDLINE
    }
    if _is_spec(model, given):
        if more := sorted(given - WITH_SPEC):
            raise click.UsageError(f"{model} says what is captured: leave out {', '.join(more)}.")
        return model
    for name in ("--layer", "--data"):
        if name not in given:
            raise click.MissingParameter(ctx=ctx, param_hint=f"'{name}'", param_type="option")
    return None


def _is_spec(model: str, given: set[str]) -> bool:
    """Say whether MODEL is a file that says what to capture, of a format that a plugin offers.

    A file that says no layer beside it is meant as one too; reading it lists the formats.
    """
    path = Path(model)
    if path.suffix.lower().removeprefix(".") in default_manager().extensions("spec_formats"):
        return not path.is_dir()
    return path.is_file() and "--layer" not in given


def _read_recipe(file: str) -> "CaptureRecipe":
    from tenterhook_capture import CaptureRecipe
    from tenterhook_specs import BadSpec, read_spec

    recipe = read_spec(file, CaptureRecipe)
    for part in ("model", "data"):
        if getattr(recipe, part) is None:
            raise BadSpec([f"{file} has no table {part!r} with a name"])
    if recipe.changes:
        raise BadSpec([f"{file}: 'changes' are controllers at work, which no file can name"])
    return recipe


def _plan(store: "Store", prepared: "Capture", run_id: str, as_json: bool) -> str:
    """Make the run, and return how it is done."""
    from tenterhook_capture import NotRebuildable, begin_run
    from tenterhook_capture.together import is_shared

    if prepared.recipe.unnamed:
        raise NotRebuildable(run_id, prepared.recipe.unnamed)
    writer = begin_run(store, prepared, run_id)
    units, done = prepared.plan.unit_count, len(writer.committed())
    work = shlex.join(["tenterhook", "work", store.location, run_id])
    if as_json:
        facts = {"store": store.location, "run": run_id, "rows": prepared.plan.rows}
        facts |= {"units": units, "units_done": done, "work": work, **batches_in(prepared.plan)}
        return json.dumps(facts, indent=2)
    already = f", {done:,} of them done" if done else ""
    lines = [
        f"Run {run_id} in {store.location} is planned: {prepared.plan.rows:,} rows in "
        f"{many(units, 'unit')}{already}.",
        f"Batches: {batches_of(prepared.plan)}.",
    ]
    if is_shared(prepared):
        lines += ["Processes that share the model do it together:", f"  torchrun ... -m {work}"]
        return "\n".join(lines)
    lines += [
        "One process does it:",
        f"  {work}",
        "or several, each a part of its units, here or wherever the store can be reached:",
        f"  {work} --slice 0/2",
        f"  {work} --slice 1/2",
        "Under torchrun, in Slurm and in a Kubernetes indexed job --slice may be left out.",
    ]
    return "\n".join(lines)


def _summary(store: "Store", run: "Run") -> dict[str, Any]:
    # Not from `run.metadata`, which reads the record of each unit.
    return {
        "store": store.location,
        "run": run.id,
        "rows": run.plan.rows,
        "complete": run.is_complete,
        "layers": {
            each.name: {"features": each.features, "dtype": each.dtype} for each in run.plan.layers
        },
        **{key: run.plan.about[key] for key in ("counts", "documents")},
    }


def _report(store: "Store", run: "Run") -> str:
    counts, documents = run.plan.about["counts"], run.plan.about["documents"]
    lines = [f"Run {run.id} in {store.location}: {rows_of(run.plan)}, of"]
    lines += contents_of(run.plan)
    lines += remarks_on(counts, documents)
    if run.dropped:
        dropped = many(len(run.dropped), "unit")
        lines.append(f"Dropped, as the run has a limit: {dropped}; run.ranges says what is there.")
        return "\n".join(lines)
    some = f"0:{min(len(run), 100)}"
    lines += [
        "",
        "Read it:",
        "",
        "  from tenterhook.store import LocalStore",
        f"  run = LocalStore({store.location!r}).run({run.id!r})",
    ]
    for layer in run.layers[:1]:
        lines += [
            f"  rows = run[{layer!r}][{some}]  # a torch tensor, a row for each token",
            f"  array = run[{layer!r}].numpy(slice({some.replace(':', ', ')}))  # as numpy",
        ]
    lines += [f"  tokens = run.tokens[{some}]"]
    lines += [f"  {name} = run.documents[{name!r}]" for name in documents.get("fields", ())]
    lines += [
        f"  {what} = run.reduced({run.plan.spec['layers'][0]['name']!r}, {what!r})"
        for what in run.plan.spec.get("reduce", ())
    ]
    return "\n".join(lines)
