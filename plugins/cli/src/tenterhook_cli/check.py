"""What `tenterhook plugins check` does: the contract tests, on what is installed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tenterhook.plugins import MissingDependency, Registered

_CONTRACTS = {
    "detectors": ("hooks", "DetectorContract"),
    "controllers": ("hooks", "ControllerContract"),
    "stores": ("stores", "StoreContract"),
    "loaders": ("loaders", "LoaderContract"),
}
_HOOK = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    @property
    def layer(self):
        return place({kind!r}, {name!r})

    def make(self):
        return made({kind!r}, {name!r}, layer="inner")

    def make_for(self, batch, seq):
        return made({kind!r}, {name!r}, layer="inner", batch=batch, seq=seq)
'''
_STORE = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    @property
    def persistent(self):
        return getattr(target({kind!r}, {name!r})[0], "persistent", True)

    @pytest.fixture
    def store(self, tmp_path):
        return made({kind!r}, {name!r}, tmp_path / "store")
'''
_LOADER = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    @pytest.fixture(autouse=True)
    def named(self):
        self.name = small({name!r})

    def load(self, name, **settings):
        return target("loaders", {name!r})[0](name, **settings)
'''
_CONFTEST = '''
def pytest_sessionfinish(session, exitstatus):
    """Fail where every test was skipped."""
    passed = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("passed")
    if exitstatus == 0 and not passed:
        session.exitstatus = 5
'''
_SHAPES = {"detectors": _HOOK, "controllers": _HOOK, "stores": _STORE, "loaders": _LOADER}


def run_contracts(extensions: Sequence[Registered]) -> int:
    """Run pytest on the contracts of the extensions; return 0 where all pass, else 1."""
    checked = [each for each in extensions if each.kind in _CONTRACTS]
    for each in extensions:
        if each.kind not in _CONTRACTS:
            click.echo(
                f"{each.extension.name}: there is no contract to run for {each.kind}.", err=True
            )
    if not checked:
        return 1
    try:
        import pytest  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependency("`tenterhook plugins check`", "pytest", "pytest") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "test_contracts.py")
        file.write_text(_source(checked), encoding="utf-8")
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        Path(folder, "conftest.py").write_text(_CONFTEST)
        options = ["-q", "-rs", "-p", "no:cacheprovider", "--rootdir", folder]
        path = os.pathsep.join(
            os.path.abspath(each) for each in sys.path
        )  # whatever we found it by
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(file)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
        )
    return 0 if done.returncode == 0 else 1


def _source(extensions: Sequence[Registered]) -> str:
    lines = [
        "import pytest",
        "from tenterhook_cli.contract_examples import made, place, small, target",
    ]
    for module, contract in sorted({_CONTRACTS[each.kind] for each in extensions}):
        lines.append(f"from tenterhook.testing.{module} import {contract}")
    for at, each in enumerate(extensions):
        lines.append(
            _SHAPES[each.kind].format(
                name=each.extension.name,
                stem=f"{each.extension.name.replace('-', '_')}{at}",  # `a-b` is not `a_b`
                kind=each.kind,
                contract=_CONTRACTS[each.kind][1],
                origin=each.origin.replace('"', "'").replace("\\", "/"),
            )
        )
    return "\n".join(lines)
