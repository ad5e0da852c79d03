"""Which process writes: its name is on what it has not finished, so that others can tidy up."""

import os
import re
import secrets
import socket
import time
from pathlib import Path

LONG = 7 * 24 * 3600
"""Seconds after which what a process of another machine left is taken for abandoned."""

_HOST = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:40]


def unfinished_name() -> str:
    """Return a new name for something that this process has not finished."""
    return f"{_HOST}-{os.getpid()}-{secrets.token_hex(6)}"


def is_abandoned(path: Path, name: str) -> bool:
    """Say whether the process that gave the name works no more."""
    found = re.fullmatch(r"(.*)-(\d+)-[0-9a-f]{12}", name)
    if found is None:
        return False
    if found[1] == _HOST:
        return not _is_running(int(found[2]))
    try:
        return time.time() - path.stat().st_mtime > LONG
    except FileNotFoundError:
        return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
