"""The command `tenterhook`.

Importing this imports nothing: whoever lists plugins imports it, and may never run a command.
"""

from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 (failed), 2 (bad input) or 130 (stopped).

    From then on stdout is this thread's: what others print goes to stderr.
    """
    from tenterhook_cli import command_line

    command_line.run(args)
