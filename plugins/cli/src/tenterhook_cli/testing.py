"""What every command of a plugin does: a contract to inherit.

class TestGreet(CommandContract):
    name = "greet"
    works = ("Ada",)

The plugin is installed: the command is run as users run it, through `tenterhook`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import click
import pytest

from tenterhook.plugins import Registered, default_manager
from tenterhook_cli import main

__all__ = ["CommandContract"]

RUN = """
import sys
from tenterhook_cli import main
try:
    main(sys.argv[1:])
finally:
    loaded = [name for name in ("torch", "numpy", "transformers") if name in sys.modules]
    print("loaded:", *loaded, file=sys.stderr)
"""


class CommandContract:
    """Inherit and give the command's `name`, with arguments of calls that work."""

    name: str = ""
    """What the plugin declares: a word, or `sae.plot` for the command `plot` of the group `sae`."""
    works: Sequence[str] | None = None
    """Arguments of a quick call that ends well; without them none is made."""
    lists: Sequence[str] | None = None
    """Arguments of a quick call that prints a list, without `--json`."""

    @pytest.fixture
    def registered(self) -> Registered:
        """Return what the plugin declares."""
        found = default_manager().extensions("commands")
        assert self.name in found, f"no installed plugin has the command {self.name!r}"
        return found[self.name]

    @pytest.fixture
    def command(self, registered: Registered) -> click.Command:
        """Import the command."""
        found = registered.load()
        assert isinstance(found, click.Command)
        return found

    def call(
        self, capfd: pytest.CaptureFixture[str], *arguments: str, bare: bool = False
    ) -> tuple[object, str, str]:
        """Run the command here; return the exit code, stdout and stderr."""
        words = () if bare else self.name.split(".")
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*words, *arguments])
        return stop.value.code, *capfd.readouterr()

    def test_its_help_is_one_line(
        self, registered: Registered, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Which stands in the list of commands, beside its word."""
        *group, word = self.name.split(".")
        help = registered.extension.help
        assert help.strip()
        assert "\n" not in help
        status, out, _ = self.call(capfd, *group, "--help", bare=True)
        assert status == 0
        assert any(line.split()[:1] == [word] for line in out.splitlines())

    def test_help_says_how_it_is_used(self, capfd: pytest.CaptureFixture[str]) -> None:
        """On stdout, and nothing on stderr."""
        status, out, err = self.call(capfd, "--help")
        assert (status, err) == (0, "")
        assert out.startswith(f"Usage: tenterhook {' '.join(self.name.split('.'))}")

    def test_each_of_its_own_has_help(self, command: click.Command) -> None:
        """A line, which `--help` of the group shows."""
        for each in _all(command):
            assert each.get_short_help_str(), f"{each.name} has no docstring"

    def test_a_misspelt_option_is_the_users_mistake(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Exit code 2; a line that says what is wrong, and one that says where help is."""
        status, out, err = self.call(capfd, "--there-is-no-such-option")
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert "--there-is-no-such-option" in err
        assert "Traceback" not in err

    def test_help_imports_nothing_heavy(self, registered: Registered) -> None:
        """Nor prints anything but the help: torch is imported where the command needs it."""
        done = _other_process("-c", RUN, *self.name.split("."), "--help")
        assert done.returncode == 0, done.stderr
        assert done.stderr.split() == ["loaded:"]
        assert done.stdout.startswith("Usage: ")

    def test_importing_it_prints_nothing(self, registered: Registered) -> None:
        """On stdout there may be JSON."""
        module = registered.extension.target.partition(":")[0]
        done = _other_process("-c", f"import {module}")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_it_works(self, capfd: pytest.CaptureFixture[str]) -> None:
        """It ends with 0."""
        if self.works is None:
            pytest.skip("`works` is not given, so that it was not run")
        status, _, err = self.call(capfd, *self.works)
        assert status == 0, err

    def test_what_it_lists_it_lists_as_json(
        self, command: click.Command, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """With `--json`, which every command named `list` has, and which alone is on stdout."""
        for each in _all(command):
            if each.name == "list":
                assert any("--json" in option.opts for option in each.params)
        if self.lists is None:
            pytest.skip("`lists` is not given, so that no list was read")
        status, out, err = self.call(capfd, *self.lists, "--json")
        assert status == 0, err
        json.loads(out)
        status, plain, _ = self.call(capfd, *self.lists)
        assert status == 0
        assert "\x1b" not in plain  # no colours where there is no terminal


def _all(command: click.Command) -> Iterator[click.Command]:
    """Yield a command, and those of a group."""
    yield command
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _all(each)


def _other_process(*arguments: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(os.path.abspath(each) for each in sys.path)
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
