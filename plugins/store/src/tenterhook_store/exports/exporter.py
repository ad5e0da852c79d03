"""What an exporter is, and which plugin has that of a format."""

import functools
import os
from collections.abc import Sequence
from typing import Protocol

from tenterhook.plugins import default_manager
from tenterhook_store.errors import UnknownFormat
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import Missing


class Exporter(Protocol):
    """Writes the rows of a run in one format; plugins declare theirs with `tenterhook_exporters`.

    What it returns is up to it.
    """

    def __call__(
        self,
        run: Readable,
        folder: str | os.PathLike[str],
        *,
        layers: str | int | Sequence[str | int] | None = None,
        missing: Missing | None = None,
        overwrite: bool = False,
    ) -> object:
        """Write the rows to a folder that is not there yet, or is empty.

        All layers unless `layers` names some. `run.ranges.part(slice(None), missing)` are the rows
        that are meant of a run that lacks units. `overwrite` replaces an earlier export. Raises
        `PlaceTaken` where the folder holds something else.
        """


def find_exporter(name: str) -> Exporter:
    """Return the exporter of a format, as plugins name it: `npy`.

    Raises `UnknownFormat`, which lists the formats there are, and `AmbiguousExtension` where
    plugins clash over the name. Nothing is imported before it is called; then an exporter that
    cannot be called so is a `BrokenExtension`.
    """
    manager = default_manager()
    known = manager.extensions("exporters")
    if name not in known:
        raise manager.clash("exporters", name) or UnknownFormat(name, tuple(known))
    return functools.partial(known[name].call)
