"""`tenterhook capture`: run a model over data and keep what its layers return."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tenterhook.capture import Progress
    from tenterhook.store import Run, Store


@click.command()
@click.argument("model")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    required=True,
    help="A layer: its dotted name, layer_N, or a pattern such as 'transformer.h.*.mlp'. Repeat.",
)
@click.option(
    "--data",
    required=True,
    help="A text file, JSON lines, a Hugging Face data set, or a name with a scheme: tiny:sample.",
)
@click.option("--field", help="The field of a record that holds the text.")
@click.option(
    "--sample-by",
    type=click.Choice(["line", "paragraph", "document"]),
    default="line",
    show_default=True,
    help="What is a document in a text file.",
)
@click.option("--out", required=True, help="The folder of the store; made if it is not there.")
@click.option("--run-name", help="The run's id, instead of one that follows from what is captured.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Documents at once.",
)
@click.option("--sample-limit", type=click.IntRange(min=1), help="Take so many documents.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64"]),
    help="Cast the rows; by default they are kept in the dtype that the layer gives.",
)
@click.option(
    "--long-documents",
    type=click.Choice(["truncate", "split"]),
    default="truncate",
    show_default=True,
    help="What becomes of documents longer than the model takes.",
)
@click.option(
    "--rows-per-unit",
    type=click.IntRange(min=1),
    help="Tokens of a unit of work: the most that is done again after a stop.  [default: 32768]",
)
@click.option("--device", help="Where the model runs, for example cuda; the loader chooses.")
@click.option("--revision", help="The model's revision on the hub.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def capture(
    model: str,
    layers: tuple[str, ...],
    data: str,
    out: str,
    *,
    field: str | None,
    sample_by: Any,
    run_name: str | None,
    batch_size: int,
    sample_limit: int | None,
    dtype: str | None,
    long_documents: Any,
    rows_per_unit: int | None,
    device: str | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Run MODEL over data and keep, for each token, what layers return.

    MODEL is a name on the Hugging Face hub, a folder, or `tiny:`. The same command again goes on
    with a run that was stopped, and does nothing where it is complete.
    """
    from tenterhook.documents import read_documents
    from tenterhook.store import LocalStore, check_run_id

    if run_name is not None:
        check_run_id(run_name)
    store = LocalStore(out)
    store.check_writable()
    documents = read_documents(data, field=field, sample_by=sample_by)

    from tenterhook.capture import ROWS_PER_UNIT, save_activations  # imports torch
    from tenterhook.loading import load_model

    loaded = load_model(model, device=device, revision=revision)
    with _stoppable(), _progress_bar() as show:
        seen = _Seen(show)
        run_id = save_activations(
            loaded,
            layers,
            documents,
            store,
            run_name=run_name,
            batch_size=batch_size,
            sample_limit=sample_limit,
            dtype=dtype,
            long_documents=long_documents,
            rows_per_unit=rows_per_unit or ROWS_PER_UNIT,
            progress=seen,
        )
    run = store.run(run_id)
    if not seen.rows_new:
        click.echo("This run was complete already; there was nothing to do.", err=True)
    click.echo(json.dumps(_summary(store, run), indent=2) if as_json else _report(store, run))


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Have Ctrl-C, and what schedulers send before they kill, stop the run cleanly."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        for note in getattr(error, "__notes__", ()):
            click.echo(note, err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress_bar() -> Iterator["Callable[[Progress], None]"]:
    """Show a bar on stderr where it is a terminal, a line every ten seconds where it is none."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("")

        def show(progress: "Progress") -> None:
            text = _said(progress)
            bars.update(task, completed=progress.rows, total=progress.rows_total, description=text)

        yield show


class _Seen:
    """Remembers how much was done, and passes it on."""

    def __init__(self, show: "Callable[[Progress], None]") -> None:
        self._show = show
        self.rows_new = 0

    def __call__(self, progress: "Progress") -> None:
        self.rows_new = progress.rows_new
        self._show(progress)


class _Lines:
    """Progress for logs."""

    seconds = 10.0

    def __init__(self) -> None:
        self._next = self.seconds

    def __call__(self, progress: "Progress") -> None:
        ended = progress.rows == progress.rows_total
        if progress.seconds < self._next and not (ended and progress.rows_new):
            return
        self._next = progress.seconds + self.seconds
        left = progress.seconds_left
        rest = "" if left is None or ended else f", {left:,.0f} s left"
        click.echo(f"{_said(progress)}{rest}", err=True)


def _said(progress: "Progress") -> str:
    return (
        f"{progress.rows:,} of {progress.rows_total:,} tokens, "
        f"{progress.rows_per_second:,.0f} tokens/s, {_size(progress.bytes_new)}"
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _summary(store: "Store", run: "Run") -> dict[str, Any]:
    found = run.metadata
    return {
        "store": store.location,
        **{key: found[key] for key in ("run", "rows", "complete", "layers", "counts")},
        "documents": found["documents"],
    }


def _report(store: "Store", run: "Run") -> str:
    counts, skipped = run.metadata["counts"], run.metadata["documents"]["skipped_empty"]
    lines = [f"Run {run.id} in {store.location}: {len(run):,} rows, one for each token, of"]
    lines += [f"  {each.name}  {each.features} x {each.dtype}" for each in run.plan.layers]
    lines += _remarks(counts, skipped)
    layer, some = run.layers[0], f"0:{min(len(run), 100)}"
    lines += [
        "",
        "Read it:",
        "",
        "  from tenterhook.store import LocalStore",
        f"  run = LocalStore({store.location!r}).run({run.id!r})",
        f"  rows = run[{layer!r}][{some}]  # a torch tensor, a row for each token",
        f"  tokens = run.tokens[{some}]",
        f"  array = run[{layer!r}].numpy(slice({some.replace(':', ', ')}))  # the rows as numpy",
    ]
    return "\n".join(lines)


def _remarks(counts: dict[str, int], skipped: int) -> list[str]:
    """Say what of the documents is not in the run."""
    remarks = []
    if empty := skipped + counts["documents_without_tokens"]:
        remarks.append(f"Skipped: {_many(empty, 'empty document')}.")
    if long := counts["documents_too_long"]:
        cut = counts["tokens_cut"]
        what = f"Cut: {_many(cut, 'token')} of" if cut else "Split:"
        remarks.append(f"{what} {_many(long, 'document')} longer than the model takes.")
    return remarks


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
