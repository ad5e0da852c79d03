"""The command line: which commands there are, and how any of them ends.

Each command is a module of its own, imported when it is asked for.
"""

import errno
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn, TextIO

import click

from tenterhook import __version__
from tenterhook.errors import TenterhookError
from tenterhook.one_line import error_line, type_name
from tenterhook_cli.interrupts import interrupted_by
from tenterhook_cli.plugin import tenterhook_commands
from tenterhook_cli.stdout import claim_stdout
from tenterhook_cli.terminal import echo
from tenterhook_store.progress import lines

# What a user can repair by typing something else; the rest is a failure.
BAD_INPUT = (
    LookupError,
    TypeError,
    ValueError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)

COMMANDS = {each.name: each.target for each in tenterhook_commands()}
"""Our own commands. They are found without looking for plugins, so that `tenterhook plugins`
works where plugins are broken, or kept out by the environment."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
"""What a disk says that is full or failing."""


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of our own commands and of those that plugins add, sorted."""
        from tenterhook_cli.plugin_commands import plugin_commands

        return sorted({*COMMANDS, *plugin_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        if cmd_name not in COMMANDS:
            from tenterhook_cli.plugin_commands import plugin_command

            return plugin_command(cmd_name)
        from tenterhook_cli.plugin_commands import opened

        module, _, name = COMMANDS[cmd_name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return opened(found, cmd_name)


@click.group(
    cls=LazyGroup,
    commands={name: click.Command(name) for name in COMMANDS},  # their names, for help
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="tenterhook")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Watch and change what happens inside PyTorch models."""


def run(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; see `tenterhook_cli.main`."""
    if isinstance(sys.stdout, TextIOWrapper):  # letters that a terminal lacks end nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    claim_stdout()
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]  # so that it may stand anywhere
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        code = _run(given, debug=debug)
    sys.exit(code)


def _run(args: list[str], *, debug: bool) -> int:
    try:
        with interrupted_by(signal.SIGINT), lines(_say):
            code = cli.main(args, prog_name="tenterhook", standalone_mode=False)
            sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        _say("stopped.")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone. Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _usage(error)
    except Exception as error:  # noqa: BLE001 - it is shown
        if debug:
            echo(*"".join(traceback.format_exception(error)).splitlines(), err=True)
        return _failed(error, debug=debug)
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> int:
    _say(f"error: {' '.join(error.format_message().split())}")
    if isinstance(error, click.UsageError) and error.ctx:
        _say(f"hint: {error.ctx.command_path} --help")
    return error.exit_code


def _failed(error: Exception, *, debug: bool) -> int:
    expected = isinstance(error, (TenterhookError, OSError, ImportError))
    text = error_line(error, longest=10_000)
    _say(f"error: {text.removeprefix(f'{type_name(error)}: ') if expected else text}")
    for note in getattr(error, "__notes__", ()):
        _say(f"hint: {note}")
    if not expected and not debug:
        _say("hint: --debug shows the traceback")
    return 2 if expected and isinstance(error, BAD_INPUT) and not _of_the_disk(error) else 1


def _of_the_disk(error: BaseException) -> bool:
    """Whether a full or failing disk is behind it, which nothing typed differently mends."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK:
            return True
        cause = cause.__cause__
    return False


def _say(line: str) -> None:
    echo(line, err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line, without the place in our code that gave it."""
    _say(f"warning: {' '.join(str(message).split())}")
