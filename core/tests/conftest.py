"""Core's tests run as if no plugin were installed, whatever is."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenterhook import _cli
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


@pytest.fixture
def th(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Run the command line: `code, stdout, stderr = th("plugins", "list")`."""

    def run(*args: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            _cli.main(args)
        return stop.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
        is_mounted = not subprocess.run(mount, capture_output=True).returncode
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("may not mount a tmpfs here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # an error may hold a file there
