"""Checks for an environment of built wheels and strangers' plugins; `nox -s wheels` runs them.

Not named `test_...`, so that an ordinary run, where sources are installed, leaves it alone.
"""

import importlib
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

import tenterhook
from tenterhook.hookspecs import KINDS
from tenterhook.plugins import FIRST_PARTY

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sysconfig.get_path("scripts"))
LICENSE = ROOT.joinpath("LICENSE").read_text()
MEMBERS = [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
EXAMPLES = ("tenterhook-quoted", "tenterhook-statistics", "tenterhook-token-norms")


def name_of(folder: Path) -> str:
    """Return the name of the distribution in a folder of this repository."""
    name: str = tomllib.loads(folder.joinpath("pyproject.toml").read_text())["project"]["name"]
    return name


OURS = {name_of(folder): folder for folder in (ROOT, *MEMBERS)}
each_of_ours = pytest.mark.parametrize("name", OURS)


def run(*arguments: str | Path) -> str:
    """Run the installed command and return its stdout."""
    command = [SCRIPTS / "tenterhook", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_what_is_imported_is_what_was_installed() -> None:
    """The sources are out of reach."""
    assert Path(tenterhook.__file__).is_relative_to(sysconfig.get_path("purelib"))


@each_of_ours
def test_each_distribution_is_installed_from_its_wheel(name: str) -> None:
    """At one version, with everything that it asks for."""
    found = metadata.distribution(name)

    assert found.version == tenterhook.__version__
    assert found.read_text("direct_url.json")  # says that it was a file
    assert "dir_info" not in str(found.read_text("direct_url.json"))
    assert all(
        metadata.version(re.split(r"[\[<>=; ]", each)[0])
        for each in found.requires or []
        if "extra ==" not in each
    )


@each_of_ours
def test_each_wheel_has_the_license(name: str) -> None:
    """Whoever gets one of them alone has its terms."""
    found = metadata.distribution(name)

    assert found.metadata.get_all("License-File") == ["LICENSE"]
    assert found.metadata["License-Expression"] == "Apache-2.0"
    (kept,) = (file for file in found.files or [] if str(file).endswith("/licenses/LICENSE"))
    assert kept.read_text() == LICENSE


@each_of_ours
def test_each_wheel_holds_its_own_package_alone(name: str) -> None:
    """Typed, without tests; that of `tenterhook` holds no code, and brings the others."""
    files = [file.parts for file in metadata.distribution(name).files or []]
    brought = [each for each in files if each[0] != ".." and not each[0].endswith(".dist-info")]
    package = "tenterhook" if name == "tenterhook-core" else name.replace("-", "_")

    if name == "tenterhook":
        assert brought == []
        return
    assert {each[0] for each in brought} == {package}
    assert (package, "py.typed") in brought
    assert not [each for each in brought if "tests" in each]


def doors() -> dict[str, str]:
    """Return the doors of the installed core, each with the package behind it."""
    installed = Path(tenterhook.__file__).parent
    found = {}
    for file in installed.rglob("*.py"):
        if door := re.search(r'open_door\(\s*__name__, "([\w.]+)"', file.read_text()):
            inside = file.relative_to(installed).with_suffix("")
            found[".".join(("tenterhook", *inside.parts))] = door[1]
    return found


@pytest.mark.parametrize(("door", "package"), doors().items(), ids=doors())
def test_each_door_is_the_package_behind_it(door: str, package: str) -> None:
    """Under either name it is one module."""
    assert importlib.import_module(door) is importlib.import_module(package)


@pytest.mark.parametrize("name", [*OURS, *EXAMPLES])
def test_each_console_script_runs(name: str) -> None:
    """It is there, and shows its help."""
    for script in metadata.distribution(name).entry_points.select(group="console_scripts"):
        done = subprocess.run(
            [SCRIPTS / script.name, "--help"], check=True, capture_output=True, text=True
        )
        assert done.stdout.startswith(f"Usage: {script.name} ")


def test_the_command_comes_with_the_command_line() -> None:
    """As a script, and as a module that is run."""
    scripts = metadata.distribution("tenterhook-cli").entry_points.select(group="console_scripts")

    assert [script.name for script in scripts] == ["tenterhook"]
    version = f"tenterhook, version {tenterhook.__version__}\n"
    assert run("--version") == version
    module = [sys.executable, "-m", "tenterhook", "--version"]
    assert subprocess.run(module, check=True, capture_output=True, text=True).stdout == version


def test_nothing_is_wrong_with_what_is_installed() -> None:
    """`pip` finds no requirement unmet, `doctor` neither heavy imports nor clashes."""
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True)
    assert "Nothing is wrong." in run("plugins", "doctor")


def test_every_plugin_is_listed() -> None:
    """Ours and the stranger's, through the same door."""
    listed = {row["name"]: row for row in json.loads(run("plugins", "list", "--json"))}

    assert listed.keys() >= {name for kind in KINDS for name in FIRST_PARTY[kind]}
    assert listed["TokenNormDetector"]["distribution"] == "tenterhook-token-norms"
    assert listed["TokenNormDetector"]["version"] == metadata.version("tenterhook-token-norms")


def test_the_strangers_detector_works_like_ours() -> None:
    """It comes from `tenterhook.hooks` and is registered on a layer."""
    from tenterhook.hooks import LayerActivationDetector, TokenNormDetector

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    hooked = tenterhook.attach(model)
    norms, activations = TokenNormDetector(), LayerActivationDetector("0")
    hooked.layers.register_hook("0", norms)
    hooked.layers.register_hook("0", activations)

    hooked(torch.randn(2, 3, 4))

    captured = activations.get_captured()
    assert captured is not None
    torch.testing.assert_close(norms.norms, captured.norm(dim=-1))


def test_the_strangers_command_works() -> None:
    """A plugin adds a command to `tenterhook`, which uses its own detector."""
    listed = {row["name"]: row for row in json.loads(run("plugins", "list", "--json"))}
    assert listed["statistics"]["kinds"] == ["command"]
    assert listed["StatisticsDetector"]["distribution"] == "tenterhook-statistics"

    arguments = ("tiny:", "--layer", "layer_0", "--data", "tiny:sample", "--sample-limit", "1")
    found = json.loads(run("statistics", *arguments, "--json"))

    assert found["tokens"] > 0
    assert len(found["features"]) == 128


def test_the_strangers_plugins_fulfil_their_contracts() -> None:
    """As `tenterhook plugins check` runs them."""
    for name in EXAMPLES:
        assert " passed" in run("plugins", "check", name)


def test_the_main_job_works(tmp_path: Path) -> None:
    """With what the wheels hold: the tiny model, its text, the store."""
    text = tmp_path / "text.txt"
    text.write_text("It was a dark and stormy night.\n")
    store = tmp_path / "store"

    run("capture", "tiny:", "--layer", "transformer.h.0.mlp", "--data", text, "--out", store)

    assert run("runs", "list", store)
