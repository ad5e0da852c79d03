"""What the distributions of this repository promise each other, read from their pyproject files."""

import importlib
import re
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tenterhook._version import __version__
from tenterhook.hookspecs import KINDS
from tenterhook.plugins import FIRST_PARTY, PluginManager

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)


@cache
def read(folder: Path) -> dict[str, Any]:
    """Return what the folder's pyproject.toml says."""
    return tomllib.loads(folder.joinpath("pyproject.toml").read_text())


def package_of(plugin: Path) -> str:
    """Return the name that the plugin's package must have."""
    return f"tenterhook_{plugin.name.replace('-', '_')}"


@each_plugin
def test_a_plugin_is_named_after_its_folder(plugin: Path) -> None:
    """Folder, distribution, package and entry point are one name."""
    pyproject = read(plugin)

    assert pyproject["project"]["name"] == f"tenterhook-{plugin.name}"
    if (plugin / "src" / package_of(plugin) / "plugin.py").exists():
        assert pyproject["project"]["entry-points"] == {
            "tenterhook.plugins": {plugin.name: f"{package_of(plugin)}.plugin"}
        }
    assert pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        f"src/{package_of(plugin)}"
    ]


@each_plugin
def test_a_plugin_is_released_with_core(plugin: Path) -> None:
    """One version file for all, and a range of core that fits it."""
    pyproject = read(plugin)
    version_file = plugin / pyproject["tool"]["hatch"]["version"]["path"]
    major, minor = re.findall(r"\d+", __version__)[:2]
    bounds = f">={__version__},<{major}.{int(minor) + 1}"
    ours = [each for each in pyproject["project"]["dependencies"] if each.startswith("tenterhook-")]

    assert version_file.resolve() == ROOT / "core/src/tenterhook/_version.py"
    assert f"tenterhook-core{bounds}" in ours
    assert all(each.endswith(bounds) for each in ours)


@each_plugin
def test_plugins_ask_for_what_core_asks_for(plugin: Path) -> None:
    """The same Python, the same build backend, the same least version of what both depend on."""
    ours, core = read(plugin), read(ROOT / "core")
    bounds = {re.split(r"[<>=]", each)[0]: each for each in core["project"]["dependencies"]}

    assert ours["build-system"] == core["build-system"]
    assert ours["project"]["requires-python"] == core["project"]["requires-python"]
    for each in ours["project"]["dependencies"]:
        assert bounds.get(re.split(r"[<>=]", each)[0], each) == each


@pytest.mark.parametrize(
    "package",
    [ROOT / "core/src/tenterhook", *(plugin / "src" / package_of(plugin) for plugin in PLUGINS)],
    ids=lambda package: package.name,
)
def test_every_package_is_typed(package: Path) -> None:
    """Type checkers follow our annotations only where `py.typed` says so."""
    assert package.joinpath("__init__.py").is_file()
    assert package.joinpath("py.typed").is_file()


def test_the_root_brings_core_and_every_everyday_plugin() -> None:
    """`pip install tenterhook` is all that README shows."""
    brought = {re.split(r"[<>=]", each)[0] for each in read(ROOT)["project"]["dependencies"]}

    assert brought == {"tenterhook-core", *(f"tenterhook-{plugin.name}" for plugin in PLUGINS)}


def test_what_is_installed_is_what_is_declared() -> None:
    """Every first-party plugin is found, whole, and gives what its name promises."""
    manager = PluginManager()
    declared = {
        kind: {name: each.distribution for name, each in manager.extensions(kind).items()}
        for kind in KINDS
    }

    assert manager.problems == ()
    for kind in FIRST_PARTY:
        assert declared[kind] == FIRST_PARTY[kind]


def test_every_declared_target_exists() -> None:
    """A name in a list is a promise that it can be imported."""
    manager = PluginManager()
    for kind in KINDS:
        for each in manager.extensions(kind).values():
            assert callable(each.extension.load()) or kind == "spec_formats"  # of two functions


@each_plugin
def test_what_a_plugin_exports_exists(plugin: Path) -> None:
    """The names in `__all__` can be imported from the package, lazy ones too."""
    package = importlib.import_module(package_of(plugin))

    for name in package.__all__:
        assert getattr(package, name) is not None


def test_installed_versions_agree() -> None:
    """Released in lockstep."""
    for name in (
        "tenterhook",
        "tenterhook-core",
        *(f"tenterhook-{plugin.name}" for plugin in PLUGINS),
    ):
        assert metadata.version(name) == __version__


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    """What README promises is what is checked, to the letter."""
    *_, command = ROOT.joinpath(".ci/run").read_text().splitlines()

    assert command in ROOT.joinpath("README.md").read_text().splitlines()
