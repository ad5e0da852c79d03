"""Which store serves a place."""

import pickle
from pathlib import Path

import pytest

from tenterhook.plugins import (
    AmbiguousExtension,
    BrokenExtension,
    PluginManager,
    PluginWarning,
    default_manager,
)
from tenterhook.testing.fixtures import InstalledPlugins
from tenterhook_store import open_store
from tenterhook_store.schemes import MissingPlugin, UnknownScheme, resolve_store


def storing(name: str, *schemes: str) -> str:
    """Return the source of a plugin with a store of those schemes."""
    return f"""
from tenterhook import Extension, hookimpl

@hookimpl
def tenterhook_stores():
    return [Extension({name!r}, "fractions:Fraction", "Keeps.", schemes={schemes!r})]
"""


@pytest.fixture
def sqlite(install: InstalledPlugins) -> InstalledPlugins:
    """Install a stranger's store that serves two schemes."""
    install("tenterhook-zarr", {"zarr": storing("ZarrStore", "file", "s3")})
    install("sql-plugin", {"sql": storing("SqlStore", "sqlite", "sql+file")})
    return install


@pytest.mark.parametrize(
    ("place", "served"),
    [
        ("sqlite:runs.db", "SqlStore"),
        ("sqlite:///tmp/runs.db", "SqlStore"),
        ("SQLITE:runs.db", "SqlStore"),
        ("sql+file:runs.db", "SqlStore"),
        ("sqlite:", "SqlStore"),
        ("s3://bucket/runs", "ZarrStore"),
        ("File:///runs", "ZarrStore"),
        ("runs", None),
        ("runs/a:b", None),
        ("./sqlite:runs.db", None),
        ("/sqlite:runs.db", None),
        ("C:runs", None),
        ("C:\\runs", None),
        ("", None),
        (Path("sqlite:runs.db"), None),
    ],
    ids=str,
)
def test_a_place_is_served_by_its_scheme(
    sqlite: InstalledPlugins, place: str | Path, served: str | None
) -> None:
    """In any case of letters; a path, a drive and what is no text have no scheme."""
    found = resolve_store(place)

    assert (found and found.extension.name) == served


def test_a_path_that_is_there_is_a_path(
    sqlite: InstalledPlugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is called, so that nothing made before becomes out of reach."""
    monkeypatch.chdir(tmp_path)
    Path("sqlite:runs.db").mkdir()

    assert resolve_store("sqlite:runs.db") is None
    assert resolve_store("sqlite:other.db") is not None


def test_an_unknown_scheme_is_an_error(sqlite: InstalledPlugins) -> None:
    """That lists those there are, and says how to name such a folder."""
    with pytest.raises(UnknownScheme) as error:
        resolve_store("sqlit:runs.db")

    assert isinstance(error.value, LookupError)
    assert str(error.value) == (
        "No installed plugin has stores named 'sqlit:', as 'sqlit:runs.db'. Did you mean "
        "'sqlite:'? Known are file:, s3:, sql+file:, sqlite:. For a folder of that name write "
        "'./sqlit:runs.db'."
    )
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_where_no_store_has_a_scheme_the_error_says_so(install: InstalledPlugins) -> None:
    """And points to the list of plugins."""
    with pytest.raises(UnknownScheme, match=r"See `tenterhook plugins list`\. Known are none\."):
        resolve_store("sqlite:runs.db")


def test_a_scheme_of_ours_says_what_to_install(install: InstalledPlugins) -> None:
    """Where its plugin is missing."""
    with pytest.raises(
        MissingPlugin, match=r"'s3://b' needs tenterhook-zarr, which opens stores .*`pip install"
    ) as error:
        resolve_store("s3://b")

    assert isinstance(error.value, ImportError)


def test_a_scheme_of_ours_whose_plugin_is_broken_says_why(install: InstalledPlugins) -> None:
    """Installing it again would not help."""
    install("tenterhook-zarr", {"zarr": "import not_there_at_all"})

    with pytest.warns(PluginWarning), pytest.raises(MissingPlugin, match="not_there_at_all"):
        resolve_store("s3://b")


def test_a_scheme_of_ours_whose_plugin_is_kept_out_says_by_what(
    install: InstalledPlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is installed, so installing it would not help."""
    install("tenterhook-zarr", {"zarr": storing("ZarrStore", "s3")})
    monkeypatch.setenv("TENTERHOOK_PLUGINS", "")

    with pytest.raises(MissingPlugin, match=r"zarr is installed and was not loaded\."):
        resolve_store("s3://b")


def test_a_stranger_takes_no_scheme_of_ours(install: InstalledPlugins) -> None:
    """It is reported, and serves its other schemes."""
    install("a-plugin", {"a": storing("AStore", "s3", "sqlite")})
    install("tenterhook-zarr", {"zarr": storing("ZarrStore", "s3")})

    with pytest.warns(PluginWarning, match="its scheme 's3' has a name that is reserved for"):
        found = resolve_store("s3://b")

    assert found is not None
    assert found.distribution == "tenterhook-zarr"
    assert list(default_manager().extensions("schemes")) == ["s3", "sqlite"]


def test_a_scheme_that_two_plugins_claim_serves_neither(install: InstalledPlugins) -> None:
    """Both are named; both stores are there by their class names."""
    install("a-plugin", {"a": storing("AStore", "sqlite")})
    install("b-plugin", {"b": storing("BStore", "sqlite")})

    manager = PluginManager()

    (problem,) = manager.problems
    assert (
        "its scheme 'sqlite' has the name of scheme 'sqlite' of plugin 'a' (a-plugin 1.0)"
        in str(problem)
    )
    assert list(manager.extensions("stores")) == ["AStore", "BStore"]
    both = r"Scheme 'sqlite' is offered by plugin 'a' \(a-plugin 1.0\) and by plugin 'b'"
    with pytest.warns(PluginWarning), pytest.raises(AmbiguousExtension, match=both):
        resolve_store("sqlite:runs.db")


def test_one_plugin_claims_a_scheme_once(install: InstalledPlugins) -> None:
    """Or nobody knows which of its stores is meant."""
    twice = storing("AStore", "sqlite") + storing("BStore", "sqlite").replace(
        "def tenterhook_stores", "def more"
    ).replace("@hookimpl", "@hookimpl(specname='tenterhook_stores')")
    install("a-plugin", {"a": twice})

    (problem,) = PluginManager().problems

    assert "its scheme 'sqlite' has the name of another of its own" in problem.cause


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("builtins:dict", "opened a dict, which has no location, runs, run, write_run"),
        ("sys:exit", r"called sys.exit\('elsewhere:x'\)"),
    ],
    ids=["no store", "an exit"],
)
def test_what_a_stranger_opens_is_a_store(
    install: InstalledPlugins, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    """Else its plugin is named, before anything is asked of it."""
    code = f"""
from {target.partition(":")[0]} import {target.partition(":")[2]} as opened

def Elsewhere(place, *, create):
    return opened(place) if opened is not dict else opened()
"""
    plugin = storing("Elsewhere", "elsewhere").replace("fractions:Fraction", "plugin_els:Elsewhere")
    install("els-plugin", {"els": plugin + code})

    with pytest.raises(BrokenExtension, match=rf"Scheme 'elsewhere' of plugin 'els' .* {said}"):
        open_store("elsewhere:x")
