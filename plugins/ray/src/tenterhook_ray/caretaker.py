"""A process that outlives the one that started a cluster, and removes what that leaves.

Run as a script, with nothing but Python's own modules, so that it is there at once: it waits until
the other end of a pipe is closed, gives processes that have files open in the folder some time to
end, kills those that do not, and removes the folder.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE = 5.0
"""Seconds that processes have to end by themselves."""


def users(folder: str) -> set[int]:
    """Return the processes that have a file of the folder open; none where the system hides it."""
    found = set[int]()
    for each in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            if os.readlink(each).startswith(f"{folder}/"):
                found.add(int(each.parts[2]))
    return found


def main(alive: int, folder: str) -> None:
    """Wait, and tidy up."""
    spared = {os.getpid(), os.getppid()}  # who started this may live on, with a log of Ray's open
    os.read(alive, 1)  # nobody writes: it returns when the other end is closed
    until = time.monotonic() + GRACE
    while there := users(folder) - spared:
        if time.monotonic() > until:
            for process in there:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
