"""What a plugin prints while it is imported goes to stderr: somebody may read stdout as JSON.

`sys.stdout` belongs to the whole process, and several threads may load plugins at once while
others print. So one object stands for it in the meantime, which looks at the thread that prints.
A plugin that keeps hold of that object, as a handler of `logging` does, prints to the real stdout
once it is loaded.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tenterhook.plugins.locking import lock


class _Here(threading.local):
    loading = 0


_here = _Here()
_threads = 0


class _Stdout:
    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if _here.loading else self.real, name)


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send what this thread prints to stderr."""
    global _threads
    with lock:
        _threads += 1
        if sys.stdout is not None and not isinstance(sys.stdout, _Stdout):
            sys.stdout = _Stdout(sys.stdout)
    _here.loading += 1
    try:
        yield
    finally:
        _here.loading -= 1
        with lock:
            _threads -= 1
            if not _threads and isinstance(sys.stdout, _Stdout):
                sys.stdout = sys.stdout.real
