"""Checks of what `tenterhook plugins new` writes, in a clean environment of built wheels.

`nox -s wheels` runs them. Not named `test_...`, so that an ordinary run leaves them alone. What
takes seconds for each kind is done for a sample of them, unless `TENTERHOOK_WHOLE=1`.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tenterhook.hookspecs import KINDS as HOOKS
from tenterhook_cli.scaffold import BEGINNINGS, hook_of

SCRIPTS = Path(sysconfig.get_path("scripts"))


def run(*command: str | Path, cwd: Path, expected: int = 0) -> str:
    """Run a command of this environment in a folder and return its stdout."""
    shared = {**os.environ, "MYPY_CACHE_DIR": str(SCRIPTS.parent / "mypy_cache")}
    done = subprocess.run(
        [SCRIPTS / command[0], *command[1:]], cwd=cwd, capture_output=True, text=True, env=shared
    )
    assert done.returncode == expected, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write a plugin of each kind, build its wheel without the network, and install all.

    The environment is left as it was.
    """
    folder = tmp_path_factory.mktemp("workshop")
    for kind in KINDS:
        written = run("tenterhook", "plugins", "new", f"my-{kind}", "--kind", kind, cwd=folder)
        assert f"my-{kind}/pyproject.toml" in written
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation")
    members = [str(folder / f"my-{kind}") for kind in KINDS]
    done = subprocess.run([*pip, *members], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield folder
    uninstall = (sys.executable, "-m", "pip", "uninstall", "--yes")
    subprocess.run([*uninstall, *(f"my-{kind}" for kind in KINDS)], capture_output=True, check=True)


KINDS = tuple(BEGINNINGS)
NAMES = {"detector": "MyDetector", "controller": "MyController", "store": "MyStore"}
"""Of what is asked for by its class; else it is the distribution's."""
TYPES = """
from tenterhook.hooks import LayerActivationDetector

reveal_type(LayerActivationDetector("0").get_captured())
"""
REVEALED = 'Revealed type is "torch._tensor.Tensor | None"'

each_kind = pytest.mark.parametrize("kind", KINDS)


def test_there_is_one_of_each_kind() -> None:
    """Whatever a plugin may offer, it can be begun."""
    assert {hook_of(kind) for kind in KINDS} == set(HOOKS)


def test_they_are_listed(workshop: Path) -> None:
    """With their kinds, distributions and versions."""
    rows = json.loads(run("tenterhook", "plugins", "list", "--json", cwd=workshop))

    listed = {row["distribution"]: (row["name"], row["kinds"], row["version"]) for row in rows}
    for kind in KINDS:
        shown = hook_of(kind).removesuffix("s").replace("_", " ")
        assert listed[f"my-{kind}"] == (NAMES.get(kind, f"my-{kind}"), [shown], "0.1.0")


@pytest.mark.matrix(sample=2)
@each_kind
def test_it_is_shown(workshop: Path, kind: str) -> None:
    """With the parameters of its signature, where it has any."""
    said = run("tenterhook", "plugins", "info", f"my-{kind}", cwd=workshop)

    assert BEGINNINGS[kind].help in said
    assert ("parameter    " in said) == (kind not in ("observer", "spec-format"))
    assert "cannot be read" not in said


@each_kind
def test_it_asks_for_what_it_imports(workshop: Path, kind: str) -> None:
    """And not for `tenterhook`, which brings every plugin of ours."""
    required = metadata.requires(f"my-{kind}") or []
    asked = {re.split(r"[<>=;]", each)[0] for each in required if "extra ==" not in each}
    for_tests = {re.split(r"[<>=;]", each)[0] for each in required}
    folder = workshop / f"my-{kind}"

    assert "tenterhook" not in for_tests
    assert imported(folder / "src") <= asked | {f"my-{kind}"}
    assert imported(folder / "tests") <= for_tests | {f"my-{kind}"}


def test_their_tests_pass(workshop: Path) -> None:
    """Those they were written with, which run the contracts; all at once, to save time."""
    settings = ("-c", "my-detector/pyproject.toml", "--rootdir", ".", "-p", "no:cacheprovider")
    paths = [Path(f"my-{kind}", "tests") for kind in KINDS]
    said = run("pytest", *settings, *paths, cwd=workshop)

    for kind in KINDS:
        assert f"my-{kind}/tests/test_my_{kind.replace('-', '_')}.py ." in said


@pytest.mark.parametrize(
    "kind",
    [
        # A store's takes half a minute, and what each was written with runs it already.
        pytest.param(kind, marks=pytest.mark.matrix(sample=int(kind == "detector")))
        for kind in KINDS
    ],
)
def test_it_fulfils_the_contract_as_installed(workshop: Path, kind: str) -> None:
    """`tenterhook plugins check` finds what to make."""
    said = run("tenterhook", "plugins", "check", f"my-{kind}", cwd=workshop)

    assert " passed" in said


def imported(folder: Path) -> set[str]:
    """Return the distributions, outside the standard library, that the code of a folder imports."""
    found = set()
    for file in folder.rglob("*.py"):
        for module in re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), re.MULTILINE):
            if module not in sys.stdlib_module_names:
                found.add("tenterhook-core" if module == "tenterhook" else module.replace("_", "-"))
    return found


def test_they_lint_and_are_formatted(workshop: Path) -> None:
    """By ruff, with the settings they were written with."""
    for kind in KINDS:
        run("ruff", "check", ".", cwd=workshop / f"my-{kind}")
        run("ruff", "format", "--check", ".", cwd=workshop / f"my-{kind}")


@pytest.mark.matrix(sample=2)
@each_kind
@pytest.mark.parametrize("name", ["x" * 35, "x" * 50], ids=len)
def test_long_names_pass_their_lint(tmp_path: Path, kind: str, name: str) -> None:
    """Lines break where a formatter would break them."""
    run("tenterhook", "plugins", "new", name, "--kind", kind, cwd=tmp_path)

    run("ruff", "check", ".", cwd=tmp_path / name)
    run("ruff", "format", "--check", ".", cwd=tmp_path / name)


# Type checkers read torch first, for half a minute.
@pytest.mark.matrix(sample=0)
def test_they_are_typed(workshop: Path) -> None:
    """By mypy, strictly, with the settings they were written with; all at once, to save time.

    And `tenterhook.hooks` gives it the class of the plugin that is installed.
    """
    paths = [workshop / f"my-{kind}" / part for kind in KINDS for part in ("src", "tests")]
    names = workshop / "names.py"
    names.write_text(TYPES)

    said = run("mypy", "--config-file", "my-detector/pyproject.toml", *paths, names, cwd=workshop)

    assert f"names.py:4: note: {REVEALED}" in said
    assert "no issues" in run("mypy", cwd=workshop / "my-detector")  # it knows what to look at


def test_nothing_is_wrong_with_them(workshop: Path) -> None:
    """`doctor` finds neither heavy imports nor clashes."""
    assert "Nothing is wrong." in run("tenterhook", "plugins", "doctor", cwd=workshop)


@pytest.mark.matrix(sample=0)
def test_names_of_plugins_are_typed_for_pyright_too(workshop: Path) -> None:
    """It, too, follows the plugin that is installed."""
    file = workshop / "names.py"
    file.write_text(TYPES)

    assert "Tensor | None" in run("pyright", "--pythonpath", sys.executable, file, cwd=workshop)


def test_a_missing_plugin_is_an_import_error_with_the_pip_command(workshop: Path) -> None:
    """In a clean environment, as a user meets it."""
    code = "from tenterhook.hooks import FunctionController"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workshop, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: No loaded plugin has the hook 'FunctionController'. It comes with "
        "`pip install tenterhook-function-controller`."
    )
