"""The commands that plugins add: known by name and help, imported when they are run.

A word is a command of `tenterhook`. A word with a dot, `sae.plot`, is the command `plot` in the
group `sae`, whoever the group is of. What the group has itself comes first, so a plugin takes
nothing away, and no plugin is looked for until the group lacks a word.
"""

import copy
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from tenterhook.one_line import error_line
from tenterhook.plugins import RESERVED, PluginManager, PluginWarning, Registered, default_manager
from tenterhook_cli.options import OneValueCommand


def manager_without_warnings() -> PluginManager:
    """Return the default manager without a warning for each plugin that was left out.

    `tenterhook plugins` reports them; every other command would repeat them. What a plugin prints
    when it is imported goes to stderr: stdout may be JSON.
    """
    with warnings.catch_warnings(), stdout_to_stderr():
        warnings.simplefilter("ignore", PluginWarning)
        return default_manager()


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what is printed, by Python, by a library in C or by a process started here."""
    if sys.stdout is None:  # whoever started us closed it
        yield
        return
    sys.stdout.flush()
    before, sys.stdout = sys.stdout, sys.stderr
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout = before
        os.dup2(real, 1)
        os.close(real)


def plugin_commands() -> dict[str, click.Command]:
    """Return the commands of plugins by name, none of them imported; without those of groups."""
    found = manager_without_warnings().extensions("commands")
    return {name: PluginCommand(each, name) for name, each in found.items() if "." not in name}


def plugin_command(name: str) -> click.Command | None:
    """Return the command of that name; `AmbiguousExtension` where plugins clash over it.

    Raises `UnknownExtension`, which says what to do, for one of ours whose plugin is not loaded.
    """
    manager = manager_without_warnings()
    if clash := manager.clash("commands", name):
        raise clash
    if ("commands", name) in RESERVED:
        manager.extension("commands", name)
    return plugin_commands().get(name)


def added_to(group: str) -> dict[str, "PluginCommand"]:
    """Return the commands that plugins add to a group."""
    found = manager_without_warnings().extensions("commands")
    start = f"{group}."
    return {
        name.removeprefix(start): PluginCommand(each, name.removeprefix(start))
        for name, each in found.items()
        if name.startswith(start)
    }


def opened(command: click.Command, word: str) -> click.Command:
    """Return a command that takes one value of each option; a group, to which plugins add, too."""
    made: tuple[type, ...] = (_OpenGroup,)
    if not isinstance(command, click.Group):
        if isinstance(command, OneValueCommand):
            return command
        made = (OneValueCommand,)
    # A copy, for the command is its author's; of a class of its own, which keeps all its methods.
    found = copy.copy(command)
    kind: Any = type(made[0].__name__.strip("_"), (*made, type(command)), {"word": word})
    found.__class__ = kind
    return found


class _OpenGroup(OneValueCommand, click.Group):
    word: str

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *added_to(self.word)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is None:
            return added_to(self.word).get(cmd_name)
        return opened(own, f"{self.word}.{cmd_name}")


class PluginCommand(click.Command):
    """Stands for a plugin's command in lists, and becomes it when it is run."""

    def __init__(self, registered: Registered, word: str) -> None:
        super().__init__(word, short_help=registered.extension.help)
        self._registered = registered

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Import the command and let it parse the arguments.

        Raises `ImportError` where the plugin does not have it, `ClickException` where what it has
        is no command.
        """
        command = self._registered.load()
        if not isinstance(command, click.Command):
            raise click.ClickException(
                f"{self._registered.extension.target!r} of {self._registered.origin} is a "
                f"{type(command).__name__}, and no click command; update or uninstall it"
            )
        return opened(command, self._registered.extension.name).make_context(*args, **kwargs)


def misplaced(own: Mapping[str, str], *, load: bool = False) -> Iterator[str]:
    """Say which commands add to a group that is not there; with `load`, to what is no group.

    `own` are the words that the command line has whatever is installed.
    """
    commands = manager_without_warnings().extensions("commands")
    for name, each in commands.items():
        group, dot, word = name.partition(".")
        if not dot:
            continue
        who = f"Command {name!r} of {each.origin}"
        if group not in commands and group not in own:
            yield f"{who} adds to {group!r}, which is no command of tenterhook."
        elif load and group in commands:
            yield from _no_place(who, word, commands[group])


def _no_place(who: str, word: str, group: Registered) -> Iterator[str]:
    try:
        command = group.load()
    except Exception as error:  # noqa: BLE001 - it is shown
        yield f"{who} adds to {group.extension.name!r}, which cannot be had: {error_line(error)}"
        return
    if not isinstance(command, click.Group):
        yield f"{who} adds to {group.extension.name!r} of {group.origin}, which is no group."
    elif word in command.commands:
        yield f"{who} is never run: {group.origin} has a command of that name in its group."
