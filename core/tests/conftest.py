"""Core's tests run as if no plugin were installed, whatever is."""

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest

from tenterhook.plugins import ONLY_VARIABLE

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_installed_plugins(no_plugin_variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a default manager of its own, which loads nothing."""
    monkeypatch.setenv(ONLY_VARIABLE, "")
    monkeypatch.setattr("tenterhook.plugins._default._default", None)


@pytest.fixture
def install(
    no_installed_plugins: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Install]:
    """Lay down distributions as pip would: `install(name, {entry point: module source})`.

    Only these are found. The modules are named after the entry points.
    """
    site = tmp_path / "site-packages"
    site.mkdir()
    paths = [str(site)]
    monkeypatch.syspath_prepend(site)
    monkeypatch.delenv(ONLY_VARIABLE)
    monkeypatch.setattr(
        "tenterhook.plugins._entry_points.metadata.distributions",
        lambda: metadata.Distribution.discover(path=paths),
    )
    before = set(sys.modules)

    def lay(name: str, plugins: Mapping[str, str], *, version: str = "1.0") -> Path:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        lines = ["[tenterhook.plugins]"]
        for entry_point, source in plugins.items():
            module = f"plugin_{entry_point.replace('-', '_')}"
            site.joinpath(f"{module}.py").write_text(source)
            lines.append(f"{entry_point} = {module}")
        info.joinpath("entry_points.txt").write_text("\n".join(lines))
        return site

    lay.paths = paths  # type: ignore[attr-defined]
    yield lay
    for module in set(sys.modules) - before:
        if module.startswith("plugin_"):
            del sys.modules[module]
