"""Which store, and which run of it, a place and perhaps a name mean."""

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tenterhook_store.default import open_store
from tenterhook_store.errors import AmbiguousRun, NoStore, NotAStore, UnknownRun

if TYPE_CHECKING:
    from tenterhook_store.protocols import Store

_RUN_IN_STORE = re.compile(r"(?P<store>.+?)[/\\]+runs[/\\]+(?P<run>[^/\\]+)[/\\]*", re.DOTALL)


def find_run(place: str | os.PathLike[str], run: str | None = None) -> "tuple[Store, str]":
    """Return the store and the id of the run that a place and perhaps a name mean.

    `place` is a store's path or URL, or that of a run in it (`STORE/runs/RUN`). Of a store alone,
    its only run is meant; `AmbiguousRun` where it has none, or several. Raises `UnknownRun`, and
    what `open_store(place, create=False)` raises.
    """
    store, run = _find(os.fspath(place), run)
    if run is not None:
        return store, run
    known = natural_order(store.runs())
    if len(known) != 1:
        raise AmbiguousRun(store.location, known)
    return store, known[0]


def find_runs(place: str | os.PathLike[str], run: str | None = None) -> "tuple[Store, list[str]]":
    """Return the same as `find_run`; of a store alone, all its runs are meant."""
    store, run = _find(os.fspath(place), run)
    return store, natural_order(store.runs()) if run is None else [run]


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted as people do: `r2` before `r12`."""
    return sorted(
        names, key=lambda name: ([_part(each) for each in re.split(r"(\d+)", name)], name)
    )


def _find(place: str, run: str | None) -> "tuple[Store, str | None]":
    try:
        store = open_store(place, create=False)
    except (NoStore, NotAStore):
        inside = _RUN_IN_STORE.fullmatch(place)
        if run is not None or inside is None:
            raise
        store, run = open_store(inside["store"], create=False), inside["run"]
    known = store.runs()
    if run is not None and run not in known:
        raise UnknownRun(run, natural_order(known), store.location)
    return store, run


def _part(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() and text.isascii() else (-1, text.casefold())
