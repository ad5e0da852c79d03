"""Stdout belongs to the thread that runs the command: somebody may read it as JSON.

What a plugin prints while it is imported goes to stderr; core sees to that. A thread that it
started then may print at any later time, also when the command is done and Python is ending. So one
object stands for `sys.stdout` from the beginning of a command until the process ends. It looks at
the thread that prints: the command's own goes to the real stdout, any other to stderr.

It does not reach a library in C that prints by itself, nor who kept the real stdout from before.
"""

import sys
import threading
from typing import Any


class _CommandStdout:
    def __init__(self, real: Any) -> None:
        self.real = real
        self.owner = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        stream = self.real if threading.get_ident() == self.owner else sys.stderr
        return getattr(stream, name)


def claim_stdout() -> None:
    """Have what other threads print go to stderr, from now on until the process ends."""
    if isinstance(sys.stdout, _CommandStdout):
        sys.stdout.owner = threading.get_ident()
    elif sys.stdout is not None:  # whoever started us may have closed it
        sys.stdout = _CommandStdout(sys.stdout)
