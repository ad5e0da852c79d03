"""Fixtures for the tests of plugins; opt in with `pytest_plugins`, in the top `conftest.py`:

pytest_plugins = ["tenterhook.testing.fixtures"]
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest

from tenterhook.plugins import (
    BLOCK_VARIABLE,
    ENTRY_POINT_GROUP,
    ONLY_VARIABLE,
    STRICT_VARIABLE,
    PluginManager,
    using,
)

__all__ = ["InstalledPlugins", "plugin_manager", "tenterhook_install"]


@pytest.fixture
def plugin_manager() -> Iterator[PluginManager]:
    """Serve names from an empty manager, to which the test registers plugins of this process.

    plugin_manager.register(my_package.plugin, "mine")
    """
    with using(PluginManager(autoload=False)) as manager:
        yield manager


class InstalledPlugins:
    """Lays down distributions as pip would, in a folder of their own; only these are found.

    Called with a distribution's name and its plugins, entry point to module source, it writes the
    modules, named `plugin_` and the entry point, and a real `.dist-info` folder, and returns the
    folder that is on `sys.path`.
    """

    def __init__(self, site: Path) -> None:
        self.site = site
        self.paths = [str(site)]
        """The folders that are searched for metadata."""

    def __call__(
        self,
        name: str,
        plugins: Mapping[str, str],
        *,
        version: str = "1.0",
        requires: tuple[str, ...] = (),
    ) -> Path:
        """Install a distribution; see the class."""
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        required = "".join(f"Requires-Dist: {each}\n" for each in requires)
        info.joinpath("METADATA").write_text(f"Name: {name}\nVersion: {version}\n{required}")
        lines = [f"[{ENTRY_POINT_GROUP}]"]
        for entry_point, source in plugins.items():
            module = "plugin_" + re.sub(r"\W", "_", entry_point)
            self.site.joinpath(f"{module}.py").write_text(source)
            lines.append(f"{entry_point} = {module}")
        info.joinpath("entry_points.txt").write_text("\n".join(lines))
        return self.site


@pytest.fixture
def tenterhook_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[InstalledPlugins]:
    """Install plugins without pip: `tenterhook_install("my-plugin", {"mine": source})`.

    The default manager is a fresh one that finds only these, when it is first asked.
    """
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    for variable in (ONLY_VARIABLE, BLOCK_VARIABLE, STRICT_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    installed = InstalledPlugins(site)
    discover: Callable[..., object] = metadata.Distribution.discover
    monkeypatch.setattr(
        "tenterhook.plugins.entry_points.metadata.distributions",
        lambda: discover(path=installed.paths),
    )
    monkeypatch.setattr("tenterhook.plugins.default._default", None)
    before = set(sys.modules)
    yield installed
    for module in set(sys.modules) - before:
        if module.startswith("plugin_"):
            del sys.modules[module]
