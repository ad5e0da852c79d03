"""What the distributions of this repository promise each other, read from their pyproject files."""

import importlib
import re
import tomllib
import zipfile
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tenterhook._version import __version__
from tenterhook.hookspecs import KINDS, SCHEMES
from tenterhook.plugins import FIRST_PARTY, PluginManager

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
JOINS = {"vllm": {"vllm.general_plugins"}}
"""Plugins that another framework finds too, and by which entry points."""

ON_REQUEST = {"tenterhook-ray", "tenterhook-vllm"}
"""What nobody gets who does not ask for it: few have what it works with."""
NOXFILE = ROOT.joinpath("noxfile.py").read_text()


def script(path: Path) -> Any:
    """Import a program that is in no package."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = script(ROOT / ".ci/release.py")

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
        groups = pyproject["project"]["entry-points"]
        assert groups["tenterhook.plugins"] == {plugin.name: f"{package_of(plugin)}.plugin"}
        assert groups.keys() - {"tenterhook.plugins"} == JOINS.get(plugin.name, set())
    assert pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        f"src/{package_of(plugin)}"
    ]


@pytest.mark.parametrize("member", [ROOT / "core", *PLUGINS], ids=lambda member: member.name)
def test_each_member_has_the_license(member: Path) -> None:
    """A copy in its folder: what is built of it can hold no file from above."""
    assert (member / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


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

    every = {"tenterhook-core", *(f"tenterhook-{plugin.name}" for plugin in PLUGINS)}
    assert brought == every - ON_REQUEST


def test_what_is_installed_is_what_is_declared() -> None:
    """Every first-party plugin is found, whole, and gives what its name promises."""
    manager = PluginManager()
    declared = {
        kind: {name: each.distribution for name, each in manager.extensions(kind).items()}
        for kind in (*KINDS, SCHEMES)
    }
    declared["schemes"] = {
        scheme: each.distribution
        for each in manager.extensions("stores").values()
        for scheme in each.extension.schemes
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


@each_plugin
def test_no_module_is_named_as_what_a_plugin_exports(plugin: Path) -> None:
    """Importing the module would put it in the place of what it defines."""
    package = package_of(plugin)
    modules = {path.stem for path in (plugin / "src" / package).glob("*.py")}

    assert not modules & set(importlib.import_module(package).__all__)


def test_installed_versions_agree() -> None:
    """Released in lockstep."""
    for name in (
        "tenterhook",
        "tenterhook-core",
        *(f"tenterhook-{plugin.name}" for plugin in PLUGINS),
    ):
        assert metadata.version(name) == __version__


def test_the_citation_is_of_this_version() -> None:
    """It has what the Citation File Format, 1.2, requires."""
    citation = yaml.safe_load(ROOT.joinpath("CITATION.cff").read_text())

    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == read(ROOT)["project"]["license"]
    assert citation["type"] == "software"
    assert citation["authors"] == read(ROOT)["project"]["authors"]
    assert {"message", "title"} <= citation.keys()


def test_hooks_of_commits_run_what_lint_runs() -> None:
    """The same commands, of the shell's own ruff, so that nothing is fetched."""
    config = yaml.safe_load(ROOT.joinpath(".pre-commit-config.yaml").read_text())
    (local,) = config["repos"]
    linted = re.search(r"^def run_ruff.*?(?=^def |\Z)", NOXFILE, re.MULTILINE | re.DOTALL)

    assert linted
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    assert [hook["entry"].split() for hook in local["hooks"]] == [
        re.findall(r'"(.+?)"', command)
        for command in re.findall(r"session\.run\((.+)\)", linted[0])
    ]


def test_every_chore_is_described() -> None:
    """CONTRIBUTING.md names each session but those that others run."""
    sessions = set(re.findall(r"^@nox\.session.*\ndef (\w+)", NOXFILE, re.MULTILINE))
    named = set(re.findall(r"`nox -s (\w+)", ROOT.joinpath("CONTRIBUTING.md").read_text()))

    assert sessions - named <= {"ci", "build", "demo"}
    assert named <= sessions


def test_every_install_is_constrained() -> None:
    """An environment is the same whenever it is made."""
    installs = re.findall(r"session\.install\((.+)", NOXFILE)

    assert installs
    assert all(each.startswith(("*CONSTRAINED", "*OF_VLLM")) for each in installs)
    files = (ROOT / "constraints.txt", ROOT / "plugins/vllm/constraints.txt")
    pinned = [line for file in files for line in file.read_text().splitlines()]
    plain = [re.sub(r"\w+\(.*?\)", "", each) for each in installs]  # not what a call gives
    names = {name for each in plain for name in re.findall(r', "([a-z][\w-]+)"', each)}
    assert "bitsandbytes" in names
    lacking = names - {re.split("[=[]", line)[0] for line in pinned}
    assert not lacking, "a session installs what constraints.txt does not pin"


def test_a_release_is_in_order() -> None:
    """Each distribution after those that it asks for, the root last."""
    distributions = release.distributions()
    order = release.in_order(distributions)

    assert order[0] == "tenterhook-core"
    assert order[-1] == "tenterhook"
    assert len(order) == len(PLUGINS) + 2
    for at, name in enumerate(order):
        assert distributions[name] <= set(order[:at])


def test_what_keeps_a_release_back_is_named(tmp_path: Path) -> None:
    """What was not built, another version, loose bounds, no license, files of something else."""
    wheel(tmp_path, "tenterhook_core", "0.1.0", "torch>=2.6")
    wheel(tmp_path, "tenterhook_zarr", "0.1.0", "tenterhook-core>=0.1.0", said="0.2.0")
    wheel(tmp_path, "tenterhook_old", "0.0.9")
    license = ROOT.joinpath("LICENSE").read_text()
    with zipfile.ZipFile(tmp_path / "tenterhook_core-0.1.0-py3-none-any.whl", "a") as file:
        file.writestr("tenterhook_core-0.1.0.dist-info/licenses/LICENSE", license)

    found = list(release.problems(tmp_path, ["tenterhook-core", "tenterhook-zarr"], "0.1.0"))

    assert found == [
        "tenterhook_core-0.1.0.tar.gz was not built",
        "tenterhook_zarr-0.1.0.tar.gz was not built",
        "tenterhook_zarr-0.1.0-py3-none-any.whl does not hold LICENSE as it is",
        "tenterhook_zarr-0.1.0-py3-none-any.whl says that it is version 0.2.0, not 0.1.0",
        "tenterhook_zarr-0.1.0-py3-none-any.whl asks for tenterhook-core>=0.1.0, not <0.2,>=0.1.0",
        "tenterhook_old-0.0.9-py3-none-any.whl is of no distribution of this repository at 0.1.0",
    ]


def wheel(folder: Path, name: str, version: str, *required: str, said: str = "") -> None:
    """Write a wheel that holds nothing but its metadata."""
    lines = [f"Name: {name}", f"Version: {said or version}"]
    lines += [f"Requires-Dist: {each}" for each in required]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines))


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    """What README promises is what is checked, to the letter."""
    *_, command = ROOT.joinpath(".ci/run").read_text().splitlines()

    assert command in ROOT.joinpath("README.md").read_text().splitlines()
