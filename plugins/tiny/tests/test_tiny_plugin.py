"""The plugin: what it declares, and that declaring it costs nothing."""

import subprocess
import sys

import pytest

import tenterhook_tiny
from tenterhook.plugins import PluginManager
from tenterhook_tiny import plugin


@pytest.mark.parametrize(
    ("kind", "target"),
    [("loaders", tenterhook_tiny.load), ("datasets", tenterhook_tiny.read)],
)
def test_scheme_names_the_function(kind: str, target: object) -> None:
    """The scheme `tiny` stands for `load` among the loaders and for `read` among the data sets."""
    manager = PluginManager(autoload=False)
    manager.register(plugin)
    assert manager.extension(kind, "tiny").load() is target


def test_public_names() -> None:
    """The package gives out these names, all of them there, and no others."""
    names = ["NoRevisions", "UnknownName", "load", "model_path", "read", "sample_path"]
    assert tenterhook_tiny.__all__ == names
    assert all(hasattr(tenterhook_tiny, name) for name in tenterhook_tiny.__all__)


def test_import_is_light() -> None:
    """Importing the package and its plugin module imports neither torch nor transformers."""
    code = (
        "import sys, tenterhook_tiny, tenterhook_tiny.plugin;"
        "assert not {'torch', 'transformers', 'tenterhook_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
