"""Ctrl-C and its like, raised where they are heard: not in the middle of an import.

Some modules catch whatever their imports raise, and go on without what they wanted. Ctrl-C would
be lost there, or come out as a module that cannot be loaded. So a signal that comes while something
is imported is sent again a little later, until nothing is.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

AGAIN = 0.05
"""Seconds until a signal is sent again."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt` for a signal, now or when nothing is being imported any more."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


@contextlib.contextmanager
def interrupted_by(number: int) -> Iterator[None]:
    """Have a signal interrupt what runs here.

    Nothing changes outside the main thread, nor where the signal is ignored, as under `nohup`.
    """
    before = signal.getsignal(number)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)
