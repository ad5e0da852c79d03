"""`tenterhook sae`: train, evaluate and look into sparse autoencoders."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tenterhook.one_line import printable

if TYPE_CHECKING:
    from tenterhook_capture.documents import Documents
    from tenterhook_sae.batches import RunBatches
    from tenterhook_sae.progress import ProgressCallback, TrainingProgress
    from tenterhook_sae.sae import Sae

KINDS = (
    "topk",
    "batchtopk",
    "jumprelu",
    "l1",
    "gated",
    "matryoshka",
    "transcoder",
    "skip-transcoder",
    "crosscoder",
)


class _Number(click.FloatRange):
    """A number in a range; NaN, which is in none, passes click's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


@click.group()
def sae() -> None:
    """Train sparse autoencoders, evaluate them, look into them."""


@sae.command()
@click.argument("store")
@click.argument("run", required=False)
@click.argument("layer", required=False, metavar="LAYER")
@click.option("--out", required=True, help="The folder for checkpoints and the SAE.")
@click.option("--kind", type=click.Choice(KINDS), default="topk", show_default=True)
@click.option(
    "--reads",
    multiple=True,
    metavar="LAYER",
    help="What a transcoder encodes, by default LAYER:input; or a crosscoder's other layers.",
)
@click.option("--latents", type=click.IntRange(1), help="8 times the layer's width by default.")
@click.option("--k", type=_Number(0), help="32 by default of top-k kinds; of others none.")
@click.option("--steps", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--learning-rate", type=_Number(0), default=1e-3, show_default=True)
@click.option(
    "--sparsity", type=_Number(0), default=1.0, show_default=True, help="jumprelu, l1 and gated."
)
@click.option("--resample-every", type=click.IntRange(1), help="Steps; never by default.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--hold-out",
    type=_Number(0, 0.9),
    default=0.05,
    show_default=True,
    help="The share of rows, the last ones, that it is evaluated on.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would be trained, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train(
    store: str,
    run: str | None,
    layer: str | None,
    out: str,
    kind: str,
    reads: tuple[str, ...],
    latents: int | None,
    k: float | None,
    steps: int,
    batch_size: int,
    learning_rate: float,
    sparsity: float,
    resample_every: int | None,
    checkpoint_every: int,
    hold_out: float,
    seed: int,
    device: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train an SAE on the rows of LAYER of RUN in STORE, a folder or a URL.

    STORE RUN may be one path, STORE/runs/RUN; where the store holds one run, RUN may be left out.
    The same command again goes on where it was stopped.
    """
    if layer is None:  # click gives words to arguments from the left, and RUN is the one left out
        run, layer = None, run
    if layer is None:
        raise click.MissingParameter(param_hint="'LAYER'", param_type="argument")

    import torch

    from tenterhook_sae.batches import RunBatches
    from tenterhook_sae.evaluation import evaluate_rows
    from tenterhook_sae.settings import TrainingSettings
    from tenterhook_sae.training import train_sae
    from tenterhook_store import find_run

    found, run = find_run(store, run)
    opened = found.run(run)
    layers = _read_by(kind, layer, reads)
    rows = opened[layers[0]]
    trained = len(rows) - int(hold_out * len(rows))
    if not opened.is_complete:
        click.echo(
            f"Run {run} lacks {len(opened.missing)} of its {opened.plan.unit_count} units: its "
            f"first {len(rows):,} rows are used. tenterhook runs resume {found.location} {run} "
            "makes the others.",
            err=True,
        )
    batches = RunBatches(opened, layers, batch_size=batch_size, seed=seed, rows=slice(0, trained))
    torch.manual_seed(seed)
    made = _made(kind, latents, batches, k, _present(device))
    settings = TrainingSettings(
        steps=steps,
        learning_rate=learning_rate,
        sparsity=sparsity,
        resample_every=resample_every,
        checkpoint_every=checkpoint_every,
        seed=seed,
        log_every=max(1, min(100, steps // 10)),
    )
    if dry_run:
        click.echo(
            f"Would train a {type(made).__name__} of {made.n_latents} latents on {trained:,} rows "
            f"of {' and '.join(map(str, batches.widths))} features, {steps:,} batches of "
            f"{batch_size:,}, into {out}."
        )
        return
    with _progress() as show:
        train_sae(made, batches, settings, out=out, progress=show)
    measured: dict[str, Any] = {"sae": out, "steps": steps}
    if trained < len(rows):
        measured |= _rounded(evaluate_rows(made, batches.blocks(trained, len(rows))))
    if as_json:
        click.echo(json.dumps(measured, indent=2))
        return
    click.echo(f"{type(made).__name__} of {made.n_latents} latents in {out}.")
    _print_measures({key: measured[key] for key in measured if key not in ("sae", "steps")})


@sae.command("eval")
@click.argument("model")
@click.argument("folder", metavar="SAE")
@click.option("--data", help="Texts; those it was trained on by default, where it knows.")
@click.option("--field", help="The field of text in records.")
@click.option("--layer", help="The layer; the one it was trained on by default.")
@click.option("--sample-limit", type=click.IntRange(1), help="Documents at most.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--device", help="Where the model and the SAE run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    model: str,
    folder: str,
    data: str | None,
    field: str | None,
    layer: str | None,
    sample_limit: int | None,
    batch_size: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Evaluate the SAE in the folder SAE in MODEL: what its reconstructions cost the model.

    The cross-entropy recovered is 1 where they cost nothing, and 0 where zeros in the layer's
    place would do as well.
    """
    from tenterhook_capture.loading import load_model
    from tenterhook_sae.batches import ModelBatches
    from tenterhook_sae.evaluation import evaluate_in_model, evaluate_rows
    from tenterhook_sae.examples import layer_of
    from tenterhook_sae.files import load_sae

    found = load_sae(folder, device=_present(device or "cpu"))
    where = layer_of(found, layer)
    documents = _documents(found, data, field, sample_limit)
    loaded = load_model(model, device=device)
    in_model = evaluate_in_model(found, loaded, where, documents, batch_size=batch_size)
    layers = found.layers_read(str(where))
    rows = ModelBatches(loaded, layers, documents, batch_size=4096, documents_at_once=batch_size)
    measured = {**_rounded(in_model), **_rounded(evaluate_rows(found, rows.one_epoch()))}
    if as_json:
        click.echo(json.dumps({"sae": folder, "layer": where, **measured}, indent=2))
        return
    _print_measures(measured)


@sae.command()
@click.argument("model")
@click.argument("folder", metavar="SAE")
@click.argument("latent")
@click.option("--data", help="Texts; those it was trained on by default, where it knows.")
@click.option("--field", help="The field of text in records.")
@click.option("--layer", help="The layer; the one it was trained on by default.")
@click.option("--top-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--sample-limit", type=click.IntRange(1), help="Documents at most.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--device", help="Where the model and the SAE run.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page, tokens coloured.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def top(
    model: str,
    folder: str,
    latent: str,
    data: str | None,
    field: str | None,
    layer: str | None,
    top_k: int,
    sample_limit: int | None,
    batch_size: int,
    device: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Show the texts that activate LATENT of the SAE in the folder SAE most.

    LATENT is a number, or the name of a latent.
    """
    from tenterhook_capture.loading import load_model
    from tenterhook_sae.examples import find_examples, layer_of, write_page
    from tenterhook_sae.files import load_sae

    found = load_sae(folder, device=_present(device or "cpu"))
    number = found.concepts.number(int(latent) if latent.lstrip("-").isdigit() else latent)
    where = layer_of(found, layer)
    documents = _documents(found, data, field, sample_limit)
    loaded = load_model(model, device=device)
    examples = find_examples(
        found, loaded, number, documents, layer=where, top_k=top_k, batch_size=batch_size
    )
    name = found.concepts.names.get(number)
    title = f"Latent {number}{f', {name}' if name else ''}"
    if html is not None:
        Path(html).write_text(write_page(examples, title=title), encoding="utf-8")
        click.echo(f"Wrote {html}.", err=True)
    if as_json:
        rows = [
            {
                "score": each.top.score,
                "token": each.top.token,
                "position": each.top.position,
                "text": each.top.text,
                "tokens": list(each.tokens),
                "scores": list(each.scores),
            }
            for each in examples
        ]
        click.echo(json.dumps({"latent": number, "name": name, "texts": rows}, indent=2))
        return
    for each in examples:
        click.echo(f"{each.top.score:>9.3f}  {each.top.token!r:<14} {_around(each.tokens, each)}")
    if not examples:
        click.echo("No text activated it.", err=True)


def _around(tokens: tuple[str, ...], example: Any, width: int = 10) -> str:
    """Return the tokens around the most active one, on one line."""
    at = example.top.position
    before, after = max(0, at - width), at + width + 1
    excerpt = printable("".join(tokens[before:after]).replace("\n", "↵"), 10_000)
    return f"{'…' if before else ''}{excerpt}{'…' if after < len(tokens) else ''}"


def _present(device: str) -> str:
    """Return the name of a device that is there; raise `BadSetting` for another."""
    import torch

    from tenterhook_sae.errors import BadSetting

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        why = str(error).partition("\n")[0].rstrip(".")
        raise BadSetting(
            "device", device, f"one that is there ({why}); leave it out, or use 'cpu'"
        ) from error
    return device


def _read_by(kind: str, layer: str, reads: tuple[str, ...]) -> list[str]:
    """Return the layers whose rows, side by side, a kind is trained on; its own is the last."""
    if "transcoder" in kind:
        if len(reads) > 1:
            raise click.UsageError("A transcoder reads one layer: give --reads once.")
        return [*(reads or (f"{layer}:input",)), layer]
    if kind == "crosscoder":
        if not reads:
            raise click.UsageError("A crosscoder reads several layers: give --reads for each more.")
        return [*reads, layer]
    if reads:
        raise click.UsageError(f"--kind {kind} reads its own layer alone: leave --reads out.")
    return [layer]


def _made(
    kind: str, latents: int | None, batches: "RunBatches", k: float | None, device: str
) -> "Sae":
    from tenterhook_sae.crosscoder import Crosscoder
    from tenterhook_sae.gated import GatedSae
    from tenterhook_sae.matryoshka import MatryoshkaBatchTopKSae
    from tenterhook_sae.models import BatchTopKSae, JumpReLUSae, L1Sae, TopKSae
    from tenterhook_sae.transcoder import SkipTranscoder, Transcoder

    n_inputs = batches.widths[0]
    n_latents = latents or 8 * n_inputs
    exact: Any = None if k is None else int(k) if k == int(k) else k  # a kind says what is wrong
    if "transcoder" in kind:
        names = batches.about["layers"]
        return (SkipTranscoder if kind == "skip-transcoder" else Transcoder)(
            *(n_latents, n_inputs, batches.widths[1], exact),
            device=device,
            reads=None if names[0] == f"{names[1]}:input" else names[0],
        )
    if kind == "crosscoder":
        if len({*batches.widths}) > 1:
            widths = " and ".join(map(str, batches.widths))
            raise click.UsageError(
                f"A crosscoder reads layers of one width, and these have {widths}."
            )
        layers = batches.about["layers"]
        return Crosscoder(n_latents, n_inputs, layers, exact, device=device)
    k = 32 if k is None else k
    if kind == "topk":
        return TopKSae(n_latents, n_inputs, 32 if exact is None else exact, device=device)
    if kind == "batchtopk":
        return BatchTopKSae(n_latents, n_inputs, k, device=device)
    if kind == "matryoshka":
        return MatryoshkaBatchTopKSae(n_latents, n_inputs, k, device=device)
    plain: dict[str, type[JumpReLUSae | L1Sae | GatedSae]]
    plain = {"jumprelu": JumpReLUSae, "l1": L1Sae, "gated": GatedSae}
    return plain[kind](n_latents, n_inputs, device=device)


def _documents(
    sae: "Sae", data: str | None, field: str | None, sample_limit: int | None
) -> "Documents":
    from tenterhook_capture.documents import read_documents

    name = data if data is not None else sae.about.get("data")
    if name is None:
        raise click.UsageError("This SAE does not say what it was trained on: give --data.")
    return read_documents(name, field=field).first(sample_limit)


def _rounded(evaluation: Any) -> dict[str, Any]:
    import attrs

    from tenterhook_sae.evaluation import numbers

    found = numbers(attrs.asdict(evaluation))
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in found.items()}


def _print_measures(measures: dict[str, Any]) -> None:
    for name, value in measures.items():
        shown = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        click.echo(f"{name.replace('_', ' '):<30}{shown:>14}")


@contextlib.contextmanager
def _progress() -> "Iterator[ProgressCallback]":
    """Show a bar on stderr where it is a terminal, and lines where it is none."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda progress: click.echo(_line_of(progress), err=True)
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("")

        def show(progress: "TrainingProgress") -> None:
            bars.update(
                task, completed=progress.step, total=progress.steps, description=_line_of(progress)
            )

        yield show


def _line_of(progress: "TrainingProgress") -> str:
    return (
        f"step {progress.step:,} of {progress.steps:,}, loss {progress.loss:.4f}, "
        f"explained variance {progress.explained_variance:.3f}, L0 {progress.l0:.1f}, "
        f"dead {progress.dead_share:.1%}, {progress.rows_per_second:,.0f} rows/s"
    )
