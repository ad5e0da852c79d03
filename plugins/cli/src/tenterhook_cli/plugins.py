"""`tenterhook plugins`: what the installed plugins offer, how they fare, and how to begin one."""

import inspect
import json
import os
from enum import Enum
from pathlib import Path
from typing import Any

import click

from tenterhook.hookspecs import KINDS
from tenterhook.one_line import error_line, printable, shown
from tenterhook.plugins import BLOCK_VARIABLE, ONLY_VARIABLE, PluginManager, Registered
from tenterhook_cli.command_line import COMMANDS
from tenterhook_cli.plugin_commands import manager_without_warnings, misplaced, stdout_to_stderr
from tenterhook_cli.scaffold import BEGINNINGS, scaffold
from tenterhook_cli.terminal import echo, escaped


@click.group()
def plugins() -> None:
    """Show, check and begin plugins."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_plugins(as_json: bool) -> None:
    """List what plugins offer: name, kind, plugin, version, what it does."""
    manager = manager_without_warnings()
    rows = [_describe(group) for group in _grouped(manager)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    for problem in (*manager.problems, *misplaced(COMMANDS)):
        echo(f"warning: {problem}", err=True)


@plugins.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(name: str, as_json: bool) -> None:
    """Show what NAME is: an extension, a plugin or a distribution, with its parameters.

    Parameters are read from signatures, so this imports what it shows.
    """
    groups = _called(name)
    rows = [{**_describe(group), **_parameters(group[0])} for group in groups]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for number, row in enumerate(rows):
        click.echo("\n" * bool(number) + _bold(escaped(row["name"])))
        for key in ("kinds", "help", "target", "plugin", "distribution", "version"):
            value = ", ".join(row[key]) if key == "kinds" else row[key]
            echo(f"  {key:<13}{value or '-'}")
        _print_parameters(row)


@plugins.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Look for what is wrong with installed plugins: imports each in a process of its own.

    Shows how long each takes to import and what heavy packages that brings in, and reports what is
    broken, clashes or is stale. Exits with 1 where there is something to repair.
    """
    from tenterhook_cli.doctor import examine

    found = examine()
    if as_json:
        click.echo(json.dumps(found.values(), indent=2))
    else:
        for line in found.lines():
            echo(line)
    if found.complaints:
        raise click.exceptions.Exit(1)


@plugins.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(BEGINNINGS)),
    required=True,
    help="What it offers first.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Where its folder is.")
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
def new(name: str, kind: str, out: Path, dry_run: bool) -> None:
    """Write a plugin called NAME: a distribution that installs, and passes its own tests.

    NAME is the distribution's, as `my-detector`.
    """
    files = scaffold(name, kind)
    folder = out / name
    if folder.exists():
        raise click.BadParameter(f"{folder} is there already", param_hint="NAME")
    for path, text in files.items():
        if not dry_run:
            folder.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
            folder.joinpath(path).write_text(text, encoding="utf-8")
        click.echo(str(folder / path))
    if not dry_run:
        click.echo(
            f"\nNext:\n  pip install -e '{folder}[test]'\n  tenterhook plugins list\n"
            f"  pytest {folder}",
            err=True,
        )


@plugins.command()
@click.argument("name")
def check(name: str) -> None:
    """Run the contract tests on NAME: an installed extension, plugin or distribution.

    What cannot be made of its defaults is made by the `example` of its extension. Exits with 1
    where a test fails, or nothing could be checked.
    """
    from tenterhook_cli.check import run_contracts

    code = run_contracts([each for group in _called(name) for each in group])
    raise click.exceptions.Exit(code)


def _called(name: str) -> list[list[Registered]]:
    """Return the extensions that have the name, or are of the plugin or distribution."""
    manager = manager_without_warnings()
    found = [
        group
        for group in _grouped(manager)
        if name in (group[0].extension.name, group[0].plugin, group[0].distribution)
    ]
    clashes = [clash for kind in KINDS if (clash := manager.clash(kind, name))]
    if clashes and not found:
        raise clashes[0]
    if not found:
        broken = [
            str(each) for each in manager.problems if name in (each.entry_point, each.distribution)
        ]
        raise click.BadParameter(
            " ".join(broken)
            or f"no installed plugin has or is called {name!r}; see `tenterhook plugins list`",
            param_hint="NAME",
        )
    return found


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


def _parameters(registered: Registered) -> dict[str, Any]:
    """Return the parameters of an extension, or why they cannot be read."""
    try:
        with stdout_to_stderr():  # what it prints is no part of what we show
            target = registered.load()
        if registered.kind == "commands":
            return {"parameters": [_click_parameter(each) for each in target.params]}
        from tenterhook_specs.parameters import parameters_of

        return {
            "parameters": [
                {
                    "name": each.name,
                    "type": _type(each.annotation),
                    "default": None if each.default is each.empty else _default(each.default),
                    "required": each.default is each.empty,
                }
                for each in parameters_of(target).values()
            ]
        }
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it is shown
        return {"parameters": None, "error": error_line(error)}


def _click_parameter(parameter: click.Parameter) -> dict[str, Any]:
    return {
        "name": printable(parameter.opts[0]),
        "type": printable(parameter.type.name),
        # Not `parameter.default`, which is a mark of click's own where there is none.
        "default": None if parameter.required else shown(parameter.to_info_dict()["default"]),
        "required": parameter.required,
    }


def _default(value: Any) -> str:
    """Return a default as people write it; of an enumeration, the word that stands for it."""
    return shown(value.value if isinstance(value, Enum) else value)


def _type(annotation: Any) -> str:
    """Return an annotation as people write it."""
    if annotation is inspect.Parameter.empty:
        return "-"
    if type(annotation) is str:  # it is for type checkers alone
        return printable(annotation)
    text = printable(inspect.formatannotation(annotation))
    for module in (
        "typing.",
        "collections.abc.",
        "torch.",
        "tenterhook.hook_type.",
        "tenterhook.hooks._types.",
    ):
        text = text.replace(module, "")
    return text


def _print_parameters(row: dict[str, Any]) -> None:
    if row["parameters"] is None:
        echo(f"  parameters   cannot be read: {row['error']}")
        return
    for each in row["parameters"]:
        default = "required" if each["required"] else f"= {each['default']}"
        echo(f"  {'parameter':<13}{each['name']}: {each['type']}  {default}")


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        kept_out = [each for each in (ONLY_VARIABLE, BLOCK_VARIABLE) if each in os.environ]
        if kept_out:
            hint = f"No plugins are loaded. See {' and '.join(kept_out)} in the environment."
        else:
            hint = "No plugins are installed. Try `pip install tenterhook`."
        echo(hint, err=True)
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
    for row_cells in (tuple(map(escaped, each)) for each in cells):
        padded = [text.ljust(width) for text, width in zip(row_cells, widths, strict=True)]
        click.echo("  ".join([_bold(padded[0]), *padded[1:]]).rstrip())


def _bold(text: str) -> str:
    """Make it bold; where there is no terminal, `click.echo` takes that out."""
    return text if os.environ.get("NO_COLOR") else click.style(text, bold=True)
