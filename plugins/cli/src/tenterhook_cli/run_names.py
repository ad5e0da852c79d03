"""Which store, and which run, the words of a command name."""

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tenterhook_store import Store

_RUN_IN_STORE = re.compile(r"(?P<store>.+?)[/\\]+runs[/\\]+(?P<run>[^/\\]+)[/\\]*", re.DOTALL)


def open_store(place: str) -> "Store":
    """Open a store that is there."""
    from tenterhook_store import LocalStore

    return LocalStore(place, create=False)


def find_run(place: str, run: str | None) -> "tuple[Store, str]":
    """Return the store and the run that `STORE RUN`, `STORE/runs/RUN` or `STORE` name.

    Of a store alone, its only run is meant. Raises `UnknownRun`, `click.UsageError`, and what
    opening a store raises.
    """
    store, run = _find(place, run)
    return store, _only(store) if run is None else run


def find_runs(place: str, run: str | None) -> "tuple[Store, list[str]]":
    """Return the same; of a store alone, all its runs are meant."""
    store, run = _find(place, run)
    return store, natural(store.runs()) if run is None else [run]


def _find(place: str, run: str | None) -> "tuple[Store, str | None]":
    from tenterhook_store import NoStore, NotAStore, UnknownRun

    try:
        store = open_store(place)
    except (NoStore, NotAStore):
        inside = _RUN_IN_STORE.fullmatch(place)
        if run is not None or inside is None:
            raise
        store, run = open_store(inside["store"]), inside["run"]
    known = store.runs()
    if run is not None and run not in known:
        raise UnknownRun(run, natural(known), store.location)
    return store, run


def _only(store: "Store") -> str:
    known = natural(store.runs())
    if len(known) != 1:
        there = f"It holds {', '.join(known)}." if known else "It holds none."
        raise click.UsageError(f"Name the run of {store.location}: STORE RUN. {there}")
    return known[0]


def natural(names: "list[str]") -> list[str]:
    """Return names sorted as people do: `r2` before `r12`."""
    return sorted(
        names, key=lambda name: ([_part(each) for each in re.split(r"(\d+)", name)], name)
    )


def _part(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() and text.isascii() else (-1, text.casefold())
