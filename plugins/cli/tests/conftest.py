"""These tests run as if no other plugin were installed, whatever is."""

import pytest

from tenterhook.testing.fixtures import InstalledPlugins


@pytest.fixture(autouse=True)
def alone(no_installed_plugins: None) -> None:
    """Give each test a default manager of its own, which loads nothing."""


@pytest.fixture
def install(alone: None, tenterhook_install: InstalledPlugins) -> InstalledPlugins:
    """Lay down distributions as pip would: `install(name, {entry point: module source})`."""
    return tenterhook_install
