"""`tenterhook layers`: what a model's layers are called."""

import json
from typing import TYPE_CHECKING, Any

import click

from tenterhook_cli.terminal import echo

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--names", is_flag=True, help="List the names that plugins give instead, and why not others."
)
@click.option(
    "--as",
    "library",
    metavar="LIBRARY",
    help="List the names that LIBRARY has for these places: transformer-lens, nnterp.",
)
def layers(model: str, as_json: bool, names: bool, library: str | None) -> None:
    """List the layers of MODEL, their types and weights.

    MODEL is a name on the Hugging Face hub, a folder, or `tiny:`.
    """
    from tenterhook_capture.loading import load_model  # imports torch

    loaded = load_model(model)
    if library is not None:
        _print_names(_names_of(library, loaded), as_json)
        return
    if names:
        _print_names(_names(loaded), as_json)
        return
    modules = dict(loaded.context.model.named_modules())
    rows = [_describe(name, modules[name]) for name in loaded.layers.list_layers()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [(row["name"], row["type"], _shapes(row["weights"])) for row in rows]
    widths = [max((len(row[column]) for row in cells), default=0) for column in (0, 1)]
    for name, kind, shapes in cells:
        echo(f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {shapes}".rstrip())


def _names(loaded: Any) -> list[dict[str, str | None]]:
    """Return each name with the layer that it stands for, or why it is not offered."""
    standard, found = loaded.layers.standard_names(), loaded.layers.index.points()
    layers = {**found.layers, **({} if standard is None else standard.layers)}
    rows: list[dict[str, str | None]] = [
        {"name": name, "layer": at if isinstance(at, str) else None, "refused": None}
        for name, at in layers.items()
    ]
    refused = ((name, why) for name, why in found.refused.items() if name not in layers)
    return [*rows, *({"name": name, "layer": None, "refused": why} for name, why in refused)]


def _names_of(library: str, loaded: Any) -> list[dict[str, str | None]]:
    """Return each name that another library has, with the name here."""
    also = loaded.layers.index.points().also
    if library not in also:
        known = ", ".join(map(repr, also)) or "none: install tenterhook-interiors"
        raise click.BadParameter(
            f"No names of {library!r} are known for this model, only those of {known}.",
            param_hint="--as",
        )
    return [{"name": theirs, "here": name} for name, theirs in also[library].items()]


def _print_names(rows: list[dict[str, str | None]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(str(row["name"])) for row in rows), default=0)
    for row in rows:
        what = row.get("here") or row.get("layer")
        what = what or ("a point" if row["refused"] is None else f"no: {row['refused']}")
        echo(f"{row['name']:<{width}}  {what}")


def _describe(name: str, module: "nn.Module") -> dict[str, Any]:
    own = module.named_parameters(recurse=False)
    weights = {each: list(parameter.shape) for each, parameter in own}
    return {"name": name, "type": type(module).__name__, "weights": weights}


def _shapes(weights: dict[str, list[int]]) -> str:
    return "  ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in weights.items())
