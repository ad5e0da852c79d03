"""`tenterhook sae compare`: several SAEs side by side, as a table and as a page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tenterhook_sae._documents import documents_of
from tenterhook_sae._options import of_texts
from tenterhook_sae._printing import plain, print_table

if TYPE_CHECKING:
    from tenterhook_sae.measured_rows import Measurable
    from tenterhook_sae.sae import Sae


@click.command()
@click.argument("folders", metavar="SAE...", nargs=-1, required=True)
@click.option("--run", "run", metavar="STORE/runs/RUN", help="Measure them on the rows of a run.")
@click.option(
    "--label", "labels", multiple=True, help="A field of the run's documents to probe for."
)
@click.option("--model", help="Measure them in a model, too.")
@of_texts
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page, of plugin view.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    folders: tuple[str, ...],
    run: str | None,
    labels: tuple[str, ...],
    model: str | None,
    data: str | None,
    field: str | None,
    layer: str | None,
    sample_limit: int | None,
    batch_size: int,
    device: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Measure the SAEs in several folders on the same rows and texts.

    SAE... are folders of SAEs, or of grids of them. Rows of the run that one of them was trained on
    are left out, where others were held out. Without --run and --model the table has what the files
    say of them alone.

    SAEs that read two models are measured on --run STORE/alignments/NAME, as `tenterhook runs
    align` makes them.
    """
    from tenterhook_capture.loading import load_model
    from tenterhook_sae.comparison import compare_saes
    from tenterhook_sae.files import load_sae
    from tenterhook_store import find_alignment, find_run, open_alignment

    if labels and run is None:
        raise click.UsageError("--label is a field of a run's documents: give --run.")
    if model is None and any(each is not None for each in (data, field, sample_limit)):
        raise click.UsageError("--data, --field and --sample-limit are for --model: give it.")
    view = None if html is None else _view()
    saes: dict[str, Sae] = {}
    for folder in _each(folders):
        saes[folder] = load_sae(folder, device=device or "cpu")
    opened: Measurable | None = None
    if run is not None:
        pair = find_alignment(run)
        if pair is not None:
            opened = open_alignment(*pair)
        else:
            store, name = find_run(run, None)
            opened = store.run(name)
    documents = loaded = None
    if model is not None:
        documents = documents_of(next(iter(saes.values())), data, field, sample_limit)
        loaded = load_model(model, device=device)
    found = compare_saes(
        saes,
        run=opened,
        model=loaded,
        documents=documents,
        labels=labels,
        layer=layer,
        batch_size=batch_size,
    )
    if view is not None:
        view.page(found, title="Sparse autoencoders", out=html)
        click.echo(f"Wrote {html}.", err=True)
    if as_json:
        rows = [
            {"sae": name, "kind": found.kinds[name], **plain(dict(each))}
            for name, each in found.measures.items()
        ]
        click.echo(json.dumps({"saes": rows}, indent=2))
        return
    print_table({f"{n} ({found.kinds[n]})": dict(each) for n, each in found.measures.items()})


def _each(folders: tuple[str, ...]) -> list[str]:
    """Return folders of SAEs: those given, and in place of one that holds some, these."""
    found: list[str] = []
    for folder in folders:
        path = Path(folder)
        inside = sorted(each.parent for each in path.glob("*/cfg.json"))
        found += [folder] if path.joinpath("cfg.json").exists() or not inside else map(str, inside)
    return list(dict.fromkeys(found))


def _view() -> Any:
    try:
        import tenterhook_view
    except ImportError:
        raise click.UsageError(
            "--html writes a page, which the plugin view makes: pip install tenterhook-view."
        ) from None
    return tenterhook_view
