"""The commands that plugins add: known by name and help, imported when they are run."""

import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

import click

from tenterhook.plugins import PluginManager, PluginWarning, Registered, default_manager


def quiet_manager() -> PluginManager:
    """Return the default manager without a warning for each plugin that was left out.

    `tenterhook plugins` reports them; every other command would repeat them. What a plugin prints
    when it is imported goes to stderr: stdout may be JSON.
    """
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore", PluginWarning)
        return default_manager()


def plugin_commands() -> dict[str, click.Command]:
    """Return the commands of plugins by name, none of them imported."""
    found = quiet_manager().extensions("commands")
    return {name: PluginCommand(each) for name, each in found.items()}


def plugin_command(name: str) -> click.Command | None:
    """Return the command of that name; `AmbiguousExtension` where plugins clash over it."""
    if clash := quiet_manager().clash("commands", name):
        raise clash
    return plugin_commands().get(name)


class PluginCommand(click.Command):
    """Stands for a plugin's command in lists, and becomes it when it is run."""

    def __init__(self, registered: Registered) -> None:
        super().__init__(registered.extension.name, short_help=registered.extension.help)
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
        return command.make_context(*args, **kwargs)
