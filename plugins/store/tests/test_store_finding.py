"""Which run a place and a name mean."""

from pathlib import Path

import pytest

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl
from tenterhook.plugins import PluginManager
from tenterhook_store import (
    AmbiguousRun,
    MemoryStore,
    NoStore,
    Store,
    UnknownRun,
    find_run,
    find_runs,
    natural_order,
)
from tenterhook_store.testing import a_plan

STORES: dict[str, MemoryStore] = {}


def opened(place: str, *, create: bool) -> Store:
    """Open one of the stores in memory by a path."""
    if place not in STORES:
        raise NoStore(place, "nothing is there")
    return STORES[place]


class Opens:
    """A plugin that stands for the one with the default store."""

    @hookimpl
    def tenterhook_stores(self) -> list[Extension]:
        """Declare it."""
        return [Extension("ZarrStore", f"{__name__}:opened", "Stores in memory, by a path.")]


@pytest.fixture(autouse=True)
def stores(plugin_manager: PluginManager) -> None:
    """Have the stores `one`, `many` and `none`."""
    plugin_manager.register(Opens(), "opens")
    for place, names in {"one": ["r"], "many": ["r12", "r2"], "none": []}.items():
        STORES[place] = MemoryStore()
        for name in names:
            STORES[place].write_run(name, a_plan())


@pytest.mark.parametrize(
    ("place", "run", "found"),
    [
        ("one", None, ("one", "r")),
        (Path("one"), "r", ("one", "r")),
        ("many", "r2", ("many", "r2")),
        ("many/runs/r12", None, ("many", "r12")),
        ("many//runs/r12/", None, ("many", "r12")),
    ],
)
def test_a_run_is_found(place: str | Path, run: str | None, found: tuple[str, str]) -> None:
    """By its store and name, by its path, or by its store where it is alone there."""
    store, name = find_run(place, run)
    assert (store, name) == (STORES[found[0]], found[1])


def test_a_store_alone_means_all_its_runs() -> None:
    """Where several will do; sorted as people sort."""
    assert find_runs("many") == (STORES["many"], ["r2", "r12"])
    assert find_runs("many/runs/r2") == (STORES["many"], ["r2"])
    assert natural_order(["b10", "b9", "a"]) == ["a", "b9", "b10"]


def test_it_is_said_which_runs_there_are() -> None:
    """Where none, or several, could be meant, and where the name is of none."""
    with pytest.raises(AmbiguousRun, match=r"store in memory: STORE RUN.* It holds r2, r12\."):
        find_run("many")
    with pytest.raises(AmbiguousRun, match="It holds none"):
        find_run("none")
    with pytest.raises(UnknownRun, match=r"No run 'r3' in .* memory\. Did you mean 'r2'"):
        find_run("many", "r3")
    with pytest.raises(NoStore, match="nowhere/runs/r: nothing is there"):
        find_run("nowhere/runs/r", "r")
    with pytest.raises(NoStore, match="nowhere: nothing is there"):
        find_run("nowhere/runs/r")
