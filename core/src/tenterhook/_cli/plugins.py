"""`tenterhook plugins`: what the installed plugins offer."""

import json
import os
from typing import Any

import click

from tenterhook._cli._plugin_commands import quiet_manager
from tenterhook.hookspecs import KINDS
from tenterhook.plugins import PluginManager, Registered


@click.group()
def plugins() -> None:
    """Show installed plugins."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_plugins(as_json: bool) -> None:
    """List what plugins offer: name, kind, plugin, version, what it does."""
    manager = quiet_manager()
    rows = [_describe(group) for group in _grouped(manager)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    for problem in manager.problems:
        click.echo(f"warning: {problem}", err=True)


@plugins.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(name: str, as_json: bool) -> None:
    """Show what NAME is: an extension, a plugin or a distribution."""
    rows = [_describe(group) for group in _grouped(quiet_manager())]
    found = [row for row in rows if name in (row["name"], row["plugin"], row["distribution"])]
    if not found:
        raise click.BadParameter(
            f"no installed plugin has or is called {name!r}; see `tenterhook plugins list`",
            param_hint="NAME",
        )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for number, row in enumerate(found):
        click.echo("\n" * bool(number) + _bold(row["name"]))
        for key in ("kinds", "help", "target", "plugin", "distribution", "version"):
            value = ", ".join(row[key]) if key == "kinds" else row[key]
            click.echo(f"  {key:<13}{value or '-'}")


def _grouped(manager: PluginManager) -> list[list[Registered]]:
    """Return the extensions in order of kind and name; a class that is two kinds is one group."""
    groups: dict[Any, list[Registered]] = {}
    for kind in KINDS:
        for each in manager.extensions(kind).values():
            groups.setdefault((each.plugin, each.extension), []).append(each)
    return list(groups.values())


def _describe(group: list[Registered]) -> dict[str, Any]:
    first = group[0]
    return {
        "name": first.extension.name,
        "kinds": [each.kind.removesuffix("s").replace("_", " ") for each in group],
        "plugin": first.plugin,
        "distribution": first.distribution,
        "version": first.version,
        "help": first.extension.help,
        "target": first.extension.target,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("No plugins are installed. Try `pip install 'tenterhook[all]'`.", err=True)
    cells = [
        (
            row["name"],
            ", ".join(row["kinds"]),
            row["distribution"] or row["plugin"],
            row["version"] or "-",
            row["help"],
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row_cells in cells:
        padded = [text.ljust(width) for text, width in zip(row_cells, widths, strict=True)]
        click.echo("  ".join([_bold(padded[0]), *padded[1:]]).rstrip())


def _bold(text: str) -> str:
    """Make it bold; where there is no terminal, `click.echo` takes that out."""
    return text if os.environ.get("NO_COLOR") else click.style(text, bold=True)
