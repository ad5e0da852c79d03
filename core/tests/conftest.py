"""Core's tests run as if no plugin were installed, whatever is."""

import pytest

from tenterhook.plugins import ONLY_VARIABLE
from tenterhook.testing.fixtures import InstalledPlugins


@pytest.fixture(autouse=True)
def no_installed_plugins(no_plugin_variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a default manager of its own, which loads nothing."""
    monkeypatch.setenv(ONLY_VARIABLE, "")
    monkeypatch.setattr("tenterhook.plugins._default._default", None)


@pytest.fixture
def install(no_installed_plugins: None, tenterhook_install: InstalledPlugins) -> InstalledPlugins:
    """Lay down distributions as pip would: `install(name, {entry point: module source})`."""
    return tenterhook_install
