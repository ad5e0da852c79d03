"""`tenterhook runs`: what a store holds."""

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tenterhook.store import Run, Store


@click.group()
def runs() -> None:
    """Show the runs of a store."""


@runs.command("list")
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(store: str, as_json: bool) -> None:
    """List the runs of the store in the folder STORE."""
    opened = _open(store)
    rows = [_row(opened.run(run_id)) for run_id in opened.runs()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [
        (row["run"], f"{row['rows']:,} rows", row["state"], ", ".join(row["layers"]))
        for row in rows
    ]
    widths = [max((len(cell[column]) for cell in cells), default=0) for column in range(3)]
    for cell in cells:
        start = "  ".join(f"{text:<{width}}" for text, width in zip(cell, widths, strict=False))
        click.echo(f"{start}  {cell[3]}")
    if not rows:
        click.echo("This store holds no runs.", err=True)


@runs.command()
@click.argument("store")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(store: str, run: str | None, as_json: bool) -> None:
    """Show what RUN in the folder STORE holds, and what made it.

    RUN may be left out where the store holds one run.
    """
    opened = _open(store)
    found = opened.run(run if run is not None else _only(opened))
    if as_json:
        click.echo(json.dumps(found.metadata, indent=2))
        return
    for name, value in _facts(found):
        click.echo(f"{name:<26}{value}".rstrip())


def _open(path: str) -> "Store":
    from tenterhook.store import LocalStore

    return LocalStore(path, create=False)


def _only(store: "Store") -> str:
    known = store.runs()
    if len(known) != 1:
        there = f"It holds {', '.join(known)}." if known else "It holds none."
        raise click.UsageError(f"Name the run of {store.location} to show. {there}")
    return known[0]


def _row(run: "Run") -> dict[str, Any]:
    return {
        "run": run.id,
        "rows": len(run),
        "rows_planned": run.plan.rows,
        "complete": run.is_complete,
        "state": _state(run),
        "layers": list(run.layers),
    }


def _state(run: "Run") -> str:
    return "complete" if run.is_complete else f"{len(run) / run.plan.rows:.0%} of the rows"


def _facts(run: "Run") -> list[tuple[str, str]]:
    found = run.metadata
    model, documents = found.get("model", {}), found.get("documents", {})
    facts = [
        ("run", run.id),
        ("state", _state(run)),
        ("rows", f"{len(run):,} of {run.plan.rows:,}"),
        ("model", found["spec"].get("model") or model.get("name", "-")),
        ("documents", f"{run.plan.documents:,} of {documents.get('source', '-')}"),
        ("start", found["start"] or "-"),
        ("end", found["end"] or "-"),
    ]
    facts += [
        (name.replace("_", " "), _said(value))
        for name, value in found.get("counts", {}).items()
        if value and name != "documents"
    ]
    facts += [
        ("layer", f"{layer.name}  {layer.features} x {layer.dtype}") for layer in run.plan.layers
    ]
    for session in found["sessions"][-1:]:
        versions = session.get("versions", {})
        facts.append(("made with", ", ".join(f"{name} {at}" for name, at in versions.items())))
        if session.get("git"):
            changed = ", with changes" if session["git"].get("changed") else ""
            facts.append(("code", f"{session['git']['commit']}{changed}"))
    return facts


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
