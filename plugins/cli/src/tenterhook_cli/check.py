"""What `tenterhook plugins check` does: the contract tests, on what is installed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tenterhook.plugins import MissingDependency, Registered

CONTRACTS = {
    "detectors": ("hooks", "DetectorContract"),
    "controllers": ("hooks", "ControllerContract"),
    "stores": ("stores", "StoreContract"),
    "loaders": ("loaders", "LoaderContract"),
    "datasets": ("datasets", "DatasetContract"),
    "layer_names": ("layer_names", "LayerNamesContract"),
    "points": ("points", "PointsContract"),
    "commands": ("commands", "CommandContract"),
    "observers": ("observers", "ObserverContract"),
    "spec_formats": ("specs", "SpecFormatContract"),
    "exporters": ("exporters", "ExporterContract"),
    "selectors": ("selectors", "SelectorContract"),
    "engines": ("engines", "EngineContract"),
}
"""By kind, the module of `tenterhook.testing` and the class there."""
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
        self.name = small({kind!r}, {name!r})

    def load(self, name, **settings):
        return target("loaders", {name!r})[0](name, **settings)
'''
_DATASET = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    scheme = {name!r}

    @pytest.fixture(autouse=True)
    def named(self):
        self.name = small({kind!r}, {name!r})

    def read(self, name, **settings):
        return target({kind!r}, {name!r})[0](name, **settings)
'''
_LAYER_NAMES = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    def name_layers(self, module):
        return target({kind!r}, {name!r})[0](module)

    def model(self):
        return model_of({name!r})
'''
_POINTS = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    def find_points(self, module):
        return target({kind!r}, {name!r})[0](module)

    def model(self):
        return model_of({name!r}, {kind!r})
'''
_COMMAND = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    name = {name!r}
'''
_OBSERVER = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    @pytest.fixture(autouse=True)
    def loaded(self):
        self.factory = target({kind!r}, {name!r})[0]  # before a test has plugins of its own

    def make(self):
        return self.factory()
'''
_SPEC_FORMAT = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    @property
    def format(self):
        return target({kind!r}, {name!r})[0]
'''
_EXPORTER = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    def export(self, run, folder, **settings):
        return target({kind!r}, {name!r})[0](run, folder, **settings)
'''
_SELECTOR = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    def select(self, tokens):
        return target({kind!r}, {name!r})[0](tokens)
'''
_ENGINE = '''
class Test{stem}{contract}({contract}):
    """{name} of {origin}."""

    @property
    def has_processes(self):
        return getattr(target({kind!r}, {name!r})[0], "has_processes", False)

    @pytest.fixture
    def engine(self):
        return made({kind!r}, {name!r})
'''
_CONFTEST = '''
def pytest_sessionfinish(session, exitstatus):
    """Fail where every test was skipped."""
    passed = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("passed")
    if exitstatus == 0 and not passed:
        session.exitstatus = 5
'''
_SHAPES = {
    "detectors": _HOOK,
    "controllers": _HOOK,
    "stores": _STORE,
    "loaders": _LOADER,
    "datasets": _DATASET,
    "layer_names": _LAYER_NAMES,
    "points": _POINTS,
    "commands": _COMMAND,
    "observers": _OBSERVER,
    "spec_formats": _SPEC_FORMAT,
    "exporters": _EXPORTER,
    "selectors": _SELECTOR,
    "engines": _ENGINE,
}
"""By kind, how an extension is given to its contract."""


def run_contracts(extensions: Sequence[Registered]) -> int:
    """Run pytest on the contracts of the extensions; return 0 where all pass, else 1."""
    try:
        import pytest  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependency("`tenterhook plugins check`", "pytest", "pytest") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "test_contracts.py")
        file.write_text(_source(extensions), encoding="utf-8")
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
        "from tenterhook_cli.contract_examples import made, model_of, place, small, target",
    ]
    for module, contract in sorted({CONTRACTS[each.kind] for each in extensions}):
        lines.append(f"from tenterhook.testing.{module} import {contract}")
    for at, each in enumerate(extensions):
        lines.append(
            _SHAPES[each.kind].format(
                name=each.extension.name,
                stem=f"{each.extension.name.replace('-', '_')}{at}",  # `a-b` is not `a_b`
                kind=each.kind,
                contract=CONTRACTS[each.kind][1],
                origin=each.origin.replace('"', "'").replace("\\", "/"),
            )
        )
    return "\n".join(lines)
