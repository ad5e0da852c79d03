"""What an actor runs, on whichever node: makes its worker, and does the units it is given.

Ray calls it in a process of its own, whose main thread does one call after the other.
"""

import contextlib
import os
import pickle
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from tenterhook_capture.processes import as_sent
from tenterhook_store import Unit


@attrs.frozen
class Surroundings:
    """Where the process that drives a run is, so that names mean the same to its actors."""

    folder: str
    path: tuple[str, ...]
    """Where it imports from."""

    def enter(self) -> None:
        """Be there, as far as this machine has that."""
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        sys.path += [each for each in self.path if each not in sys.path and os.path.exists(each)]


class UnitActor:
    """Does units with a worker that it makes once."""

    def __init__(self) -> None:
        self._does: Callable[[Unit], Mapping[str, Any]] | None = None

    def prepare(self, surroundings: Surroundings, factory: bytes) -> tuple[str, Any]:
        """Make the worker; return `"ready"` and what this actor is called, or the error."""
        surroundings.enter()
        try:
            self._does = pickle.loads(factory)()
        except Exception as error:  # noqa: BLE001 - it is raised where the engine runs
            return "broken", _told(error)
        return "ready", f"process {os.getpid()} of {platform.node()}"

    def do(self, unit: Unit) -> tuple[str, Any]:
        """Do a unit; return `"done"` and its facts, or `"failed"` and the error."""
        assert self._does is not None
        try:
            return "done", dict(self._does(unit))
        except Exception as error:  # noqa: BLE001 - it is in the event
            return "failed", _told(error)


def _told(error: Exception) -> BaseException:
    # Ray would raise a class of its own, which is made of two.
    sent = as_sent(error)
    sent.add_note("In an actor of the engine:\n" + "".join(traceback.format_exception(error)))
    return sent
