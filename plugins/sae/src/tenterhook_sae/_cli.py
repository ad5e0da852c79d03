"""`tenterhook sae`: train, evaluate and look into sparse autoencoders."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tenterhook.one_line import printable
from tenterhook_sae._compare import compare
from tenterhook_sae._documents import documents_of
from tenterhook_sae._names import names, search
from tenterhook_sae._options import Number, Several, of_texts, several
from tenterhook_sae._printing import print_measures, print_table, progress, rounded

if TYPE_CHECKING:
    from tenterhook_sae.aligned_batches import AlignedBatches
    from tenterhook_sae.batches import RunBatches
    from tenterhook_sae.errors import TrainingsFailed
    from tenterhook_sae.sae import Sae
    from tenterhook_store import Run, Store

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


PENALISED = ("jumprelu", "l1", "gated")
"""Kinds without `k`."""

BETWEEN = ("transcoder", "skip-transcoder", "crosscoder")
"""Kinds that have either `k` or a penalty."""


@click.group()
def sae() -> None:
    """Train sparse autoencoders, evaluate them, look into them."""


for command in (compare, names, search):
    sae.add_command(command)


@sae.command()
@click.argument("store")
@click.argument("run", required=False)
@click.argument("layer", required=False, metavar="LAYER")
@click.option("--out", required=True, help="The folder for checkpoints and the SAE.")
@several("--kind", click.Choice(KINDS), "topk", "")
@click.option(
    "--reads",
    multiple=True,
    metavar="LAYER",
    help="What a transcoder encodes, by default LAYER:input; or a crosscoder's other layers.",
)
@several("--latents", click.IntRange(1), None, "8 times the layer's width by default.")
@several("--k", Number(0), None, "32 by default of top-k kinds; of others none.")
@click.option(
    "--widths",
    type=Several(click.IntRange(1)),
    help="Of matryoshka: how many latents each of its dictionaries has, as 64,256,1024.",
)
@click.option("--steps", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=4096, show_default=True)
@several("--learning-rate", Number(0), "0.001", "", "--lr")
@several("--sparsity", Number(0), "1.0", "jumprelu, l1 and gated.")
@click.option("--resample-every", type=click.IntRange(1), help="Steps; never by default.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--hold-out",
    type=Number(0, 0.9),
    default=0.05,
    show_default=True,
    help="The share of rows, the last ones, that it is evaluated on.",
)
@click.option(
    "--order",
    type=click.Choice(["shuffled", "units"]),
    default="shuffled",
    show_default=True,
    help="Rows from everywhere in the run, or one unit after the other.",
)
@click.option(
    "--units-at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Units whose rows are shuffled together, with --order units.",
)
@click.option(
    "--follow",
    metavar="NAME",
    help="Train while the run is written, in the order of its units; a run with a limit holds what "
    "NAME has not read.",
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
    kind: list[str],
    reads: tuple[str, ...],
    latents: list[int],
    k: list[float],
    widths: list[int] | None,
    steps: int,
    batch_size: int,
    learning_rate: list[float],
    sparsity: list[float],
    resample_every: int | None,
    checkpoint_every: int,
    hold_out: float,
    order: Any,
    units_at_once: int,
    follow: str | None,
    seed: int,
    device: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train an SAE on the rows of LAYER of RUN in STORE, a folder or a URL.

    STORE RUN may be one path, STORE/runs/RUN; where the store holds one run, RUN may be left out.
    The same command again goes on where it was stopped.

    STORE/alignments/NAME, as `tenterhook runs align` makes them, is two runs: --kind crosscoder
    reads LAYER of both, or --reads of the first and LAYER of the second.

    With --follow the run may still be written, and its rows are read once: --steps is how many
    batches it has, unless fewer are asked for, and --hold-out is 0.

    --kind, --latents, --k, --learning-rate and --sparsity take lists, as --k 16,32,64: every
    combination is trained, from one pass over the rows, each into a folder of its own below --out,
    and comes out as if it were trained alone.
    """
    if layer is None:  # click gives words to arguments from the left, and RUN is the one left out
        run, layer = None, run
    if layer is None:
        raise click.MissingParameter(param_hint="'LAYER'", param_type="argument")

    import torch

    from tenterhook_sae.aligned_batches import AlignedBatches
    from tenterhook_sae.batches import RunBatches
    from tenterhook_sae.evaluation import evaluate_each
    from tenterhook_sae.grid import train_saes
    from tenterhook_sae.settings import TrainingSettings
    from tenterhook_sae.training import train_sae
    from tenterhook_store import find_alignment, find_run, open_alignment

    pair = find_alignment(store) if run is None else None
    if follow is not None:
        _check_follow(pair is not None)
        hold_out = 0
    if pair is not None:
        _check_pair(kind, reads)
        k = k or [32.0]
    asked = _combined(kind, latents, k, learning_rate, sparsity)
    _check_widths(kind, widths)
    batches: RunBatches | AlignedBatches
    if pair is not None:
        aligned = open_alignment(*pair)
        count = len(aligned)
        trained = count - int(hold_out * count)
        batches = AlignedBatches(
            aligned,
            (reads[0] if reads else layer, layer),
            batch_size=batch_size,
            seed=seed,
            rows=slice(0, trained),
        )
    else:
        layers = _read_by_all(kind, layer, reads)
        found, run = find_run(store, run)
        opened = found.run(run)
        count = opened.plan.rows if follow is not None else len(opened[layers[0]])
        trained = count - int(hold_out * count)
        if follow is None:
            _say_what_is_missing(found, opened, count)
        batches = RunBatches(
            opened,
            layers,
            batch_size=batch_size,
            seed=seed,
            rows=slice(0, trained) if follow is None else slice(None),
            order=order,
            units_at_once=units_at_once,
            follow=follow,
        )
        if batches.most_steps is not None and not _is_given("steps"):
            steps = batches.most_steps
    device = _present(device)
    made, settings = {}, {}
    for name, each in asked.items():
        torch.manual_seed(seed)  # so that each begins as it would alone
        made[name] = _made(each["kind"], each["latents"], batches, each["k"], device, widths)
        settings[name] = TrainingSettings(
            steps=steps,
            learning_rate=each["lr"],
            sparsity=each["sparsity"],
            resample_every=resample_every,
            checkpoint_every=checkpoint_every,
            seed=seed,
            log_every=max(1, min(100, steps // 10)),
        )
    folders = {name: out if len(made) == 1 else str(Path(out, name)) for name in made}
    if dry_run:
        for name, one in made.items():
            click.echo(
                f"Would train a {type(one).__name__} of {one.n_latents} latents on {trained:,} "
                f"rows of {' and '.join(map(str, batches.widths))} features, {steps:,} batches of "
                f"{batch_size:,}, into {folders[name]}."
            )
        return
    failed: TrainingsFailed | None = None
    with progress(made) as show:
        if len(made) == 1:
            ((name, one),) = made.items()
            train_sae(one, batches, settings[name], out=out, progress=partial(show, name))
        else:
            failed = _failure(train_saes, made, batches, settings, out=out, progress=show)
    done = {name: one for name, one in made.items() if failed is None or name in failed.done}
    measured: dict[str, dict[str, Any]] = {name: {} for name in done}
    if trained < count and done:
        evaluations = evaluate_each(done, batches.blocks(trained, count))
        measured = {name: rounded(each) for name, each in evaluations.items()}
    if as_json:
        listed = [{"sae": folders[n], "steps": steps, **each} for n, each in measured.items()]
        click.echo(json.dumps(listed[0] if len(made) == 1 else {"saes": listed}, indent=2))
    elif len(made) == 1:
        ((name, one),) = made.items()
        click.echo(f"{type(one).__name__} of {one.n_latents} latents in {out}.")
        print_measures(measured[name])
    else:
        for name, one in done.items():
            click.echo(f"{type(one).__name__} of {one.n_latents} latents in {folders[name]}.")
        if any(measured.values()):
            print_table(measured)
    if failed is not None:
        raise failed


@sae.command("eval")
@click.argument("model")
@click.argument("folder", metavar="SAE")
@of_texts
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
    documents = documents_of(found, data, field, sample_limit)
    loaded = load_model(model, device=device)
    in_model = evaluate_in_model(found, loaded, where, documents, batch_size=batch_size)
    layers = found.layers_read(str(where))
    rows = ModelBatches(loaded, layers, documents, batch_size=4096, documents_at_once=batch_size)
    measured = {**rounded(in_model), **rounded(evaluate_rows(found, rows.one_epoch()))}
    if as_json:
        click.echo(json.dumps({"sae": folder, "layer": where, **measured}, indent=2))
        return
    print_measures(measured)


@sae.command()
@click.argument("model")
@click.argument("folder", metavar="SAE")
@click.argument("latent")
@of_texts
@click.option("--top-k", type=click.IntRange(1), default=10, show_default=True)
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
    documents = documents_of(found, data, field, sample_limit)
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


def _combined(
    kinds: list[str],
    latents: list[int] | None,
    k: list[float] | None,
    learning_rate: list[float],
    sparsity: list[float],
) -> dict[str, dict[str, Any]]:
    """Return what each training is made of, by the name of its folder.

    A kind has no part in a list of what it does not take, where there are several kinds.
    """
    from tenterhook_sae.grid import combinations

    found: dict[str, dict[str, Any]] = {}
    unused: dict[str, list[float]] = {"--k": k or [], "--sparsity": sparsity}
    for kind in kinds:
        takes: dict[str, Any] = {"latents": latents or None, "k": k or None, "lr": learning_rate}
        takes["sparsity"] = sparsity
        if kind in PENALISED:
            takes["k"] = k[:1] if k else None
        else:
            unused["--k"] = []
        if kind in PENALISED or (kind in BETWEEN and k is None):
            unused["--sparsity"] = []
        else:
            takes["sparsity"] = sparsity[:1]
        for name, each in combinations(**takes).items():
            words = [kind] * (len(kinds) > 1) + [name] * (name != "one")
            found["_".join(words)] = {"kind": kind, **each}
    for option, values in unused.items():
        if len(values) > 1:
            raise click.UsageError(
                f"{option} is a list, and --kind {','.join(kinds)} takes no {option[2:]}."
            )
    return found


def _check_pair(kinds: list[str], reads: tuple[str, ...]) -> None:
    if kinds != ["crosscoder"]:
        raise click.UsageError(
            "An alignment is of two models, and --kind crosscoder is what reads both."
        )
    if len(reads) > 1:
        raise click.UsageError("LAYER is of the second run: give --reads once, for the first.")


def _is_given(option: str) -> bool:
    """Say whether an option stands on the command line."""
    source = click.get_current_context().get_parameter_source(option)
    return source is ParameterSource.COMMANDLINE


def _check_follow(is_pair: bool) -> None:
    if is_pair:
        raise click.UsageError("--follow is of one run, and an alignment is of two.")
    if _is_given("hold_out"):
        raise click.UsageError("--follow trains on each row, once: leave --hold-out out.")


def _say_what_is_missing(store: "Store", run: "Run", rows: int) -> None:
    if not run.is_complete:
        click.echo(
            f"Run {run.id} lacks {len(run.missing)} of its {run.plan.unit_count} units: its "
            f"first {rows:,} rows are used. tenterhook runs resume {store.location} {run.id} "
            "makes the others.",
            err=True,
        )


def _read_by_all(kinds: list[str], layer: str, reads: tuple[str, ...]) -> list[str]:
    """Return the layers whose rows all the kinds are trained on."""
    found = {kind: _read_by(kind, layer, reads) for kind in kinds}
    first = found[kinds[0]]
    for kind, layers in found.items():
        if layers != first:
            raise click.UsageError(
                f"--kind {kinds[0]} is trained on {' and '.join(first)}, and {kind} on "
                f"{' and '.join(layers)}: one pass is over the same layers for all."
            )
    return first


def _check_widths(kinds: list[str], widths: list[int] | None) -> None:
    if widths is not None and kinds != ["matryoshka"]:
        raise click.UsageError(
            "--widths is of --kind matryoshka alone, the dictionaries within one; --latents takes "
            "a list of how many latents there are."
        )


def _failure(train: Any, *args: Any, **more: Any) -> "TrainingsFailed | None":
    """Train several; return the error of those that failed, when the others are done."""
    from tenterhook_sae.errors import TrainingsFailed

    try:
        train(*args, **more)
    except TrainingsFailed as error:
        return error
    return None


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
    kind: str,
    latents: int | None,
    batches: "RunBatches | AlignedBatches",
    k: float | None,
    device: str,
    widths: list[int] | None = None,
) -> "Sae":
    from tenterhook_sae.crosscoder import Crosscoder
    from tenterhook_sae.gated import GatedSae
    from tenterhook_sae.matryoshka import MatryoshkaBatchTopKSae
    from tenterhook_sae.model_crosscoder import ModelCrosscoder
    from tenterhook_sae.models import BatchTopKSae, JumpReLUSae, L1Sae, TopKSae
    from tenterhook_sae.transcoder import SkipTranscoder, Transcoder

    n_inputs = batches.widths[0]
    n_latents = latents or (widths[-1] if widths else 8 * n_inputs)
    exact: Any = None if k is None else int(k) if k == int(k) else k  # a kind says what is wrong
    if "transcoder" in kind:
        names = batches.about["layers"]
        return (SkipTranscoder if kind == "skip-transcoder" else Transcoder)(
            *(n_latents, n_inputs, batches.widths[1], exact),
            device=device,
            reads=None if names[0] == f"{names[1]}:input" else names[0],
        )
    if kind == "crosscoder" and "models" in batches.about:
        return ModelCrosscoder(
            *(n_latents, batches.widths, 32 if exact is None else exact),
            models=batches.about["models"],
            device=device,
        )
    if kind == "crosscoder":
        if len({*batches.widths}) > 1:
            found = " and ".join(map(str, batches.widths))
            raise click.UsageError(
                f"A crosscoder reads layers of one width, and these have {found}."
            )
        layers = batches.about["layers"]
        return Crosscoder(n_latents, n_inputs, layers, exact, device=device)
    exact = 32 if exact is None else exact
    if kind == "topk":
        return TopKSae(n_latents, n_inputs, exact, device=device)
    if kind == "batchtopk":
        return BatchTopKSae(n_latents, n_inputs, exact, device=device)
    if kind == "matryoshka":
        return MatryoshkaBatchTopKSae(n_latents, n_inputs, exact, device=device, widths=widths)
    plain: dict[str, type[JumpReLUSae | L1Sae | GatedSae]]
    plain = {"jumprelu": JumpReLUSae, "l1": L1Sae, "gated": GatedSae}
    return plain[kind](n_latents, n_inputs, device=device)
