"""Options and arguments that several commands have, and the shapes that options come in."""

from collections.abc import Callable, Sequence
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def choice(name: str, choices: Sequence[str], help: str) -> Decorator:
    """Return an option that is one of some words, the first unless it is given."""
    return click.option(
        name, type=click.Choice(choices), default=choices[0], show_default=True, help=help
    )


def count(name: str, help: str, default: int | None = None) -> Decorator:
    """Return an option that is a whole number, 1 or more."""
    return click.option(
        name,
        type=click.IntRange(min=1),
        metavar="N",
        default=default,
        show_default=default is not None,
        help=help,
    )


def all_of(*options: Decorator) -> Decorator:
    """Return a decorator that adds options in their order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


of_run = all_of(click.argument("store"), click.argument("run", required=False))
"""The words `STORE [RUN]`."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

tries_option = count(
    "--tries",
    "How often a unit that fails is tried; the others are done whatever becomes of it.",
    default=3,
)
