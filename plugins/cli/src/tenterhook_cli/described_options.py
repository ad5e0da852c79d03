"""Options of a command from fields of a class, as `tenterhook_capture.option_fields` has them."""

import re
from typing import Any

import attrs
import click

from tenterhook_capture.option_fields import About, default_of, described
from tenterhook_cli.options import Decorator, all_of, option


def described_options(cls: type[attrs.AttrsInstance]) -> Decorator:
    """Return the options of a command for the fields of a class that are options."""
    return all_of(*(_decorator(field, about) for field, about in described(cls).values()))


def _decorator(field: "attrs.Attribute[Any]", about: About) -> Decorator:
    name = _flag(field.name)
    if field.type == (bool | None):
        name = f"{name}/--no-{name.removeprefix('--')}"
    return option(name, **described_option(field, about))


def described_option(field: "attrs.Attribute[Any]", about: About) -> dict[str, Any]:
    """Return the settings of a field's option."""
    default = default_of(field) or None
    settings: dict[str, Any] = {"default": default, "show_default": default is not None}
    if field.type is bool:
        settings |= {"is_flag": True}
    elif about.choices:
        settings |= {"type": click.Choice(about.choices)}
    elif about.least is not None:
        settings |= {"type": click.IntRange(min=about.least), "metavar": "N"}
    elif about.repeats:
        settings |= {"multiple": True}
    elif about.takes_list:
        settings |= {"metavar": "WORDS", "hint": "Several go in one, with commas between them."}
    help = re.sub(r"`(\w+)`", lambda name: _flag(name[1]), about.help)
    return {"group": about.group, "help": help, **settings}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
