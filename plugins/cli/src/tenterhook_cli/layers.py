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
def layers(model: str, as_json: bool) -> None:
    """List the layers of MODEL, their types and weights.

    MODEL is a name on the Hugging Face hub, a folder, or `tiny:`.
    """
    from tenterhook_capture.loading import load_model  # imports torch

    loaded = load_model(model)
    modules = dict(loaded.context.model.named_modules())
    rows = [_describe(name, modules[name]) for name in loaded.layers.list_layers()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [(row["name"], row["type"], _shapes(row["weights"])) for row in rows]
    widths = [max((len(row[column]) for row in cells), default=0) for column in (0, 1)]
    for name, kind, shapes in cells:
        echo(f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {shapes}".rstrip())


def _describe(name: str, module: "nn.Module") -> dict[str, Any]:
    own = module.named_parameters(recurse=False)
    weights = {each: list(parameter.shape) for each, parameter in own}
    return {"name": name, "type": type(module).__name__, "weights": weights}


def _shapes(weights: dict[str, list[int]]) -> str:
    return "  ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in weights.items())
