"""These tests run as if no other plugin were installed, whatever is."""

from collections.abc import Callable

import pytest

import tenterhook_cli
from tenterhook.testing.fixtures import InstalledPlugins


@pytest.fixture(autouse=True)
def alone(no_installed_plugins: None) -> None:
    """Give each test a default manager of its own, which loads nothing."""


@pytest.fixture
def install(alone: None, tenterhook_install: InstalledPlugins) -> InstalledPlugins:
    """Lay down distributions as pip would: `install(name, {entry point: module source})`."""
    return tenterhook_install


@pytest.fixture
def th(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Run the command line: `code, stdout, stderr = th("plugins", "list")`."""

    def run(*args: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            tenterhook_cli.main(args)
        return stop.value.code, *capfd.readouterr()

    return run
