"""Alignments by their names: `STORE/alignments/NAME`, and the runs that they are of."""

import os
import re
from typing import TYPE_CHECKING

from tenterhook_store.aligning.aligned import AlignedRuns, opened
from tenterhook_store.aligning.keeping import list_alignments, read
from tenterhook_store.default import open_store
from tenterhook_store.errors import NoStore, NotAStore, UnknownAlignment

if TYPE_CHECKING:
    from tenterhook_store.protocols import Store
    from tenterhook_store.run import Run

_IN_STORE = re.compile(r"(?P<store>.+?)[/\\]+alignments[/\\]+(?P<name>[^/\\]+)[/\\]*", re.DOTALL)


def open_alignment(store: "Store", name: str, runs: "tuple[Run, Run] | None" = None) -> AlignedRuns:
    """Open an alignment that is kept in a store.

    Its runs are opened where they were, with the units that they had then; give them where they are
    elsewhere now. Raises `UnknownAlignment` (a `LookupError`), `DamagedStore`, `UnknownRun`, and
    `ReplacedRun` where a run is not the one that it was made of.
    """
    if runs is None:
        one, other = (
            (store if each.store is None else open_store(each.store, create=False)).run(each.run)
            for each in read(store, name).runs
        )
        runs = one, other
    return opened(store, name, runs)


def find_alignment(place: str | os.PathLike[str]) -> "tuple[Store, str] | None":
    """Return the store and the name that `STORE/alignments/NAME` means; `None` for other places.

    Raises `UnknownAlignment` where the store has none of that name.
    """
    inside = _IN_STORE.fullmatch(os.fspath(place))
    if inside is None:
        return None
    try:
        store = open_store(inside["store"], create=False)
    except (NoStore, NotAStore):
        return None
    known = list_alignments(store)
    if inside["name"] not in known:
        raise UnknownAlignment(inside["name"], known, store.location)
    return store, inside["name"]
