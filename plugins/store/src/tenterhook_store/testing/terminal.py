"""A terminal in the place of stderr, for tests of what is shown there."""

import contextlib
import os
import pty
import sys
import threading
from collections.abc import Iterator

import pytest

from tenterhook_store import progress


@contextlib.contextmanager
def terminal() -> Iterator[list[str]]:
    """Have stderr be a terminal, where progress is shown at once; what is on it follows after.

    The list that this gives has it, as one text, when the block has ended.
    """
    ours, theirs = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    shown: list[str] = []
    try:
        with os.fdopen(theirs, "w") as stderr, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            patch.setattr(progress, "SECONDS", 0.0)
            patch.setenv("TERM", "xterm-256color")
            patch.setenv("COLUMNS", "120")
            for name in ("NO_COLOR", "FORCE_COLOR", progress.VARIABLE):
                patch.delenv(name, raising=False)
            yield shown
    finally:
        reader.join()
        os.close(ours)
        shown.append(b"".join(parts).decode())
