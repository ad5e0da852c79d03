"""`tenterhook capture`: run a model over data and keep what its layers return."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
from click.core import ParameterSource

from tenterhook.plugins import default_manager
from tenterhook_cli.amounts import how_long, many, size
from tenterhook_cli.contents import kept, reduced, rows_of
from tenterhook_cli.keeping import keeping, kept_settings
from tenterhook_cli.options import as_json_option, choice, count, tries_option
from tenterhook_cli.progress import Seen, progress_bar, stoppable

if TYPE_CHECKING:
    from tenterhook_capture import Capture, CaptureRecipe
    from tenterhook_store import Run, RunPlan, Store

WITH_SPEC = {"model", "--out", "--run-name", "--device", "--tries", "--dry-run", "--plan", "--json"}
"""What may stand beside a file that says what is captured."""


@click.command()
@click.argument("model")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="LAYER",
    help="A layer: its dotted name, layer_N, or a pattern such as 'transformer.h.*.mlp'; with "
    ":input or :attention after it, that instead of its output. Repeat.",
)
@click.option(
    "--data",
    metavar="NAME",
    help="A text file, JSON lines, a Hugging Face data set, or a name with a scheme: tiny:sample.",
)
@click.option("--field", help="The field of a record that holds the text.")
@choice("--sample-by", ["line", "paragraph", "document"], "What is a document in a text file.")
@click.option(
    "--out",
    required=True,
    metavar="STORE",
    help="The folder of the store, or its URL (s3://, gs://, az://); made if it is not there.",
)
@click.option(
    "--run-name",
    metavar="ID",
    help="The run's id, instead of one that follows from what is captured.",
)
@count("--batch-size", "Documents at once.", default=32)
@count("--sample-limit", "Take so many documents.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64", "int8"]),
    help="Cast the rows; by default they are kept in the dtype that the layer gives. int8 has a "
    "float32 scale for each row.",
)
@choice("--codec", ["none", "zstd", "blosc"], "How rows are compressed; what is read is the same.")
@choice(
    "--long-documents",
    ["truncate", "split"],
    "What becomes of documents longer than the model takes.",
)
@count(
    "--rows-per-unit",
    "Tokens of a unit of work: the most that is done again after a stop.  [default: 32768]",
)
@click.option("--device", help="Where the model runs, for example cuda; the loader chooses.")
@click.option("--revision", help="The model's revision on the hub.")
@click.option(
    "--attn-implementation",
    metavar="NAME",
    help="How the model computes attention: 'eager' gives the patterns that LAYER:attention keeps.",
)
@tries_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Run a few batches, say what the run would be and take, and make nothing.",
)
@click.option(
    "--plan",
    "plan_only",
    is_flag=True,
    help="Make the run and do no unit of it; print the commands that do.",
)
@keeping
@as_json_option
@click.pass_context
@stoppable()
def capture(
    ctx: click.Context,
    /,
    model: str,
    layers: tuple[str, ...],
    data: str | None,
    out: str,
    *,
    field: str | None,
    sample_by: Any,
    run_name: str | None,
    batch_size: int,
    sample_limit: int | None,
    dtype: str | None,
    codec: str,
    long_documents: Any,
    rows_per_unit: int | None,
    device: str | None,
    revision: str | None,
    attn_implementation: str | None,
    tries: int,
    dry_run: bool,
    plan_only: bool,
    as_json: bool,
    inputs: bool,
    **keeping_options: Any,
) -> None:
    """Run MODEL over data and keep, for each token, what layers return.

    MODEL is a name on the Hugging Face hub, a folder, or `tiny:`; or a file, .toml, .yaml or .json,
    that says model, data, layers and options. The same command again goes on with a run that was
    stopped, and does nothing where it is complete.
    """
    from tenterhook_capture.documents import read_documents
    from tenterhook_store import LocalStore, check_run_id

    if dry_run and plan_only:
        raise click.UsageError("--dry-run makes nothing and --plan makes the run: give one.")
    if out.startswith("memory:") and not dry_run:
        raise click.UsageError(
            f"--out {out}: what is kept in memory is gone when this command ends. "
            "Name a folder, or the URL of an object store."
        )
    if run_name is not None:
        check_run_id(run_name)
    store = LocalStore(out)
    store.check_writable()
    file = _named_file(ctx, model)
    documents = None if file else read_documents(data or "", field=field, sample_by=sample_by)

    from tenterhook_capture import (  # imports torch
        ROWS_PER_UNIT,
        CaptureOptions,
        prepare_capture,
        save_activations,
    )
    from tenterhook_capture.loading import load_model

    if file:
        recipe = _read_recipe(file).elsewhere(device=device)
        assert recipe.model is not None
        assert recipe.data is not None
        layers, sample_limit = recipe.layers, recipe.documents
        documents, loaded = recipe.data.read(), recipe.model.load()
        settings: dict[str, Any] = attrs.asdict(recipe.options)
    else:
        loaded = load_model(
            model, device=device, revision=revision, attn_implementation=attn_implementation
        )
        settings = {
            "batch_size": batch_size,
            "dtype": dtype,
            "codec": codec,
            "long_documents": long_documents,
            "rows_per_unit": rows_per_unit or ROWS_PER_UNIT,
            **kept_settings(keeping_options),
        }
    assert documents is not None
    if dry_run or plan_only:
        prepared = prepare_capture(
            loaded,
            layers,
            documents,
            options=CaptureOptions(**settings),
            sample_limit=sample_limit,
            inputs=inputs,
        )
        say = _dry_run if dry_run else _plan
        click.echo(say(store, prepared, run_name or prepared.spec.run_id(), as_json))
        return
    with progress_bar() as show:
        seen = Seen(show)
        run_id = save_activations(
            loaded,
            layers,
            documents,
            store,
            run_name=run_name,
            sample_limit=sample_limit,
            inputs=inputs,
            tries=tries,
            progress=seen,
            **settings,
        )
    run = store.run(run_id)
    if not seen.rows_new:
        click.echo("This run was complete already; there was nothing to do.", err=True)
    click.echo(json.dumps(_summary(store, run), indent=2) if as_json else _report(store, run))


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
    for option in ("--layer", "--data"):
        if option not in given:
            raise click.MissingParameter(ctx=ctx, param_hint=f"'{option}'", param_type="option")
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


def _dry_run(store: "Store", prepared: "Capture", run_id: str, as_json: bool) -> str:
    """Return what a run would be; makes nothing."""
    from tenterhook_capture import estimate

    found = estimate(store, prepared, run_id)
    if as_json:
        facts = {
            "store": store.location,
            "run": run_id,
            **attrs.asdict(found),
            "seconds": found.seconds,
        }
        return json.dumps(facts, indent=2)
    done = found.units - found.units_missing
    already = f", {done:,} of them done already" if done else ""
    about = prepared.plan.about
    lines = [
        f"Run {run_id} in {store.location} would have {rows_of(prepared.plan)}, of",
        *_contents(prepared.plan),
        *_remarks(about["counts"], about["documents"]["skipped_empty"]),
        f"{size(found.bytes)} in {many(found.shards, 'shard')} "
        f"and {many(found.units, 'unit')}{already}.",
        f"Estimated time: {how_long(found.seconds)} of forward passes in one process, at "
        f"{found.rows_per_second:,.0f} rows/s measured on the first batches.",
        "Nothing was made.",
    ]
    return "\n".join(lines)


def _plan(store: "Store", prepared: "Capture", run_id: str, as_json: bool) -> str:
    """Make the run, and return how it is done."""
    from tenterhook_capture import NotRebuildable, begin_run

    if prepared.recipe.unnamed:
        raise NotRebuildable(run_id, prepared.recipe.unnamed)
    writer = begin_run(store, prepared, run_id)
    units, done = prepared.plan.unit_count, len(writer.committed())
    work = shlex.join(["tenterhook", "work", store.location, run_id])
    if as_json:
        facts = {"store": store.location, "run": run_id, "rows": prepared.plan.rows}
        return json.dumps({**facts, "units": units, "units_done": done, "work": work}, indent=2)
    already = f", {done:,} of them done" if done else ""
    lines = [
        f"Run {run_id} in {store.location} is planned: {prepared.plan.rows:,} rows in "
        f"{many(units, 'unit')}{already}.",
        "One process does it:",
        f"  {work}",
        "or several, each a part of its units, here or wherever the store can be reached:",
        f"  {work} --slice 0/2",
        f"  {work} --slice 1/2",
        "Under torchrun, in Slurm and in a Kubernetes indexed job --slice may be left out.",
    ]
    return "\n".join(lines)


def _summary(store: "Store", run: "Run") -> dict[str, Any]:
    found = run.metadata
    return {
        "store": store.location,
        **{key: found[key] for key in ("run", "rows", "complete", "layers", "counts")},
        "documents": found["documents"],
    }


def _report(store: "Store", run: "Run") -> str:
    counts, skipped = run.metadata["counts"], run.metadata["documents"]["skipped_empty"]
    lines = [f"Run {run.id} in {store.location}: {rows_of(run.plan)}, of"]
    lines += _contents(run.plan)
    lines += _remarks(counts, skipped)
    some = f"0:{min(len(run), 100)}"
    lines += [
        "",
        "Read it:",
        "",
        "  from tenterhook_store import LocalStore",
        f"  run = LocalStore({store.location!r}).run({run.id!r})",
    ]
    for layer in run.layers[:1]:
        lines += [
            f"  rows = run[{layer!r}][{some}]  # a torch tensor, a row for each token",
            f"  array = run[{layer!r}].numpy(slice({some.replace(':', ', ')}))  # as numpy",
        ]
    lines += [f"  tokens = run.tokens[{some}]"]
    lines += [
        f"  {what} = run.reduced({run.plan.spec['layers'][0]['name']!r}, {what!r})"
        for what in run.plan.spec.get("reduce", ())
    ]
    return "\n".join(lines)


def _contents(plan: "RunPlan") -> list[str]:
    return [f"  {each}" for each in (*kept(plan), *reduced(plan))]


def _remarks(counts: dict[str, int], skipped: int) -> list[str]:
    """Say what of the documents is not in the run."""
    remarks = []
    if empty := skipped + counts["documents_without_tokens"]:
        remarks.append(f"Skipped: {many(empty, 'empty document')}.")
    if long := counts["documents_too_long"]:
        cut = counts["tokens_cut"]
        what = f"Cut: {many(cut, 'token')} of" if cut else "Split:"
        remarks.append(f"{what} {many(long, 'document')} longer than the model takes.")
    return remarks
