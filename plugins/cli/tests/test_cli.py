import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
from torch import nn

import tenterhook
import tenterhook_cli
import tenterhook_cli.command_line
from tenterhook._version import __version__
from tenterhook.errors import TenterhookError
from tenterhook.plugins import PluginManager, using
from tenterhook_store import NotWritable

Install = Callable[..., Path]

BOTH = textwrap.dedent(
    """
    from tenterhook import Extension, hookimpl

    BOTH = Extension("Both", "nowhere:Both", "Detects and controls.")

    @hookimpl
    def tenterhook_detectors():
        return [BOTH, Extension("Alone", "nowhere:Alone", "Detects.")]

    @hookimpl
    def tenterhook_controllers():
        return [BOTH]

    @hookimpl
    def tenterhook_loaders():
        return [Extension("both", "nowhere:load", "Loads.")]
    """
)


@pytest.fixture
def th(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: `code, stdout, stderr = th("plugins", "list")`."""

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            tenterhook_cli.main(args)
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def add_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Add a command to the command line, named after the function."""

    def add(function: Callable[[], None]) -> None:
        module = ModuleType("an_added_command")
        module.command = click.command(function)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(
            tenterhook_cli.command_line.COMMANDS, function.__name__, f"{module.__name__}:command"
        )

    return add


@pytest.fixture
def failing(add_command: "AddCommand") -> Callable[[BaseException], None]:
    """Add a command `fail` that raises what it is given."""

    def fail_with(error: BaseException) -> None:
        def fail() -> None:
            raise error

        add_command(fail)

    return fail_with


Th = Callable[..., tuple[int, str, str]]
AddCommand = Callable[[Callable[[], None]], None]
Failing = Callable[[BaseException], None]


class BadName(TenterhookError, ValueError):
    """A user's mistake."""


class DiskFull(TenterhookError):
    """Nobody's mistake."""


def caused(error: Exception, cause: Exception) -> Exception:
    """Return the error as raised from its cause."""
    error.__cause__ = cause
    return error


class TestHowCommandsEnd:
    def test_the_version(self, th: Th) -> None:
        """On stdout, with the name."""
        assert th("--version") == (0, f"tenterhook, version {__version__}\n", "")

    def test_without_a_command_it_shows_help(self, th: Th) -> None:
        """On stderr, because nothing was asked for."""
        code, out, err = th()

        assert (code, out) == (2, "")
        assert "plugins" in err

    @pytest.mark.parametrize("command", ["tokens", "sae"])
    def test_a_command_of_ours_that_is_kept_out(
        self, th: Th, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        """It says what keeps it out; that there is no such command would be no help."""
        monkeypatch.setenv("TENTERHOOK_PLUGINS", "")
        with using(PluginManager()):
            code, out, err = th(command, "--help")

        assert (code, out) == (2, "")
        assert f"has the command {command!r}. tenterhook-" in err
        assert "is installed and was not loaded. See the environment variables" in err

    def test_a_mistyped_command(self, th: Th) -> None:
        """One line and a hint, as for every mistake."""
        code, out, err = th("plugin")

        assert (code, out) == (2, "")
        assert err == (
            "error: No such command 'plugin'. Did you mean 'plugins'?\nhint: tenterhook --help\n"
        )

    def test_a_mistyped_option(self, th: Th) -> None:
        """The hint names the command it was given to."""
        code, _, err = th("plugins", "list", "--jsn")

        assert code == 2
        assert err.splitlines()[-1] == "hint: tenterhook plugins list --help"

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (BadName("No such name.\n  Try another."), 2, "error: No such name. Try another.\n"),
            (DiskFull("The disk is full."), 1, "error: The disk is full.\n"),
            (
                FileNotFoundError(2, "No such file or directory", "x.txt"),
                2,
                "error: [Errno 2] No such file or directory: 'x.txt'\n",
            ),
            (
                OSError(28, "No space left on device"),
                1,
                "error: [Errno 28] No space left on device\n",
            ),
            (
                caused(NotWritable("there", "unit 4 cannot be written"), OSError(28, "full")),
                1,
                "error: there: unit 4 cannot be written\n",
            ),
            (ImportError("`pip install it`"), 1, "error: `pip install it`\n"),
            (
                ZeroDivisionError("division by zero"),
                1,
                "error: ZeroDivisionError: division by zero\nhint: --debug shows the traceback\n",
            ),
            (ValueError("ours"), 1, "error: ValueError: ours\nhint: --debug shows the traceback\n"),
            (DiskFull(), 1, "error: DiskFull\n"),
            (KeyboardInterrupt(), 130, "\nstopped.\n"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
    )
    def test_errors(
        self, th: Th, failing: Failing, error: BaseException, code: int, said: str
    ) -> None:
        """One line: 2 for what the user can type differently, 1 for a failure, 130 for Ctrl-C."""
        failing(error)

        assert th("fail") == (code, "", said)

    def test_notes_are_hints(self, th: Th, failing: Failing) -> None:
        """What was added to an error on its way is shown."""
        error = DiskFull("The disk is full.")
        error.add_note("Free some.")
        failing(error)

        assert th("fail")[2] == "error: The disk is full.\nhint: Free some.\n"

    @pytest.mark.parametrize("args", [("--debug", "fail"), ("fail", "--debug")])
    def test_debug_shows_the_traceback(self, th: Th, failing: Failing, args: list[str]) -> None:
        """Wherever it stands."""
        failing(BadName("No such name."))

        code, _, err = th(*args)

        assert code == 2
        assert err.startswith("Traceback (most recent call last):")
        assert err.endswith("error: No such name.\n")

    def test_warnings_are_one_line(self, th: Th, add_command: AddCommand) -> None:
        """Without the place in our code that gave them."""

        def warn() -> None:
            warnings.simplefilter("default")
            warnings.warn("Mind\nthis.", stacklevel=1)

        add_command(warn)

        assert th("warn") == (0, "", "warning: Mind this.\n")

    def test_stdout_is_the_commands_own(self, th: Th, add_command: AddCommand) -> None:
        """Other threads print to stderr, so that nothing stands between the lines of JSON."""

        def talk() -> None:
            other = threading.Thread(target=print, args=("noise",))
            other.start()
            other.join()
            click.echo('{"rows": 3}')

        add_command(talk)

        assert th("talk") == (0, '{"rows": 3}\n', "noise\n")
        assert th("talk") == (0, '{"rows": 3}\n', "noise\n")


class TestPluginsList:
    def test_it_lists_what_is_installed(self, th: Th, install: Install) -> None:
        """By kind and name, plain where nobody looks; a class of both kinds once."""
        install("some-plugin", {"some": BOTH}, version="2.0")

        code, out, err = th("plugins", "list")

        assert (code, err) == (0, "")
        assert out == (
            "Alone  detector              some-plugin  2.0  Detects.\n"
            "Both   detector, controller  some-plugin  2.0  Detects and controls.\n"
            "both   loader                some-plugin  2.0  Loads.\n"
        )

    def test_as_json(self, th: Th, install: Install) -> None:
        """For programs."""
        install("some-plugin", {"some": BOTH}, version="2.0")

        rows = json.loads(th("plugins", "list", "--json")[1])

        assert [row["name"] for row in rows] == ["Alone", "Both", "both"]
        assert rows[1] == {
            "name": "Both",
            "kinds": ["detector", "controller"],
            "plugin": "some",
            "distribution": "some-plugin",
            "version": "2.0",
            "help": "Detects and controls.",
            "target": "nowhere:Both",
        }

    def test_a_broken_plugin_is_reported_once(self, th: Th, install: Install) -> None:
        """On stderr, below the others; the list itself succeeds."""
        install("bad-plugin", {"bad": "import not_there_at_all"})
        install("some-plugin", {"some": BOTH})

        code, out, err = th("plugins", "list")

        assert code == 0
        assert len(out.splitlines()) == 3
        assert err.startswith("warning: Plugin 'bad' of bad-plugin 1.0 was left out: ModuleNot")
        assert err.count("\n") == 1

    def test_nothing_installed(self, th: Th, install: Install) -> None:
        """Says how to get some, and prints an empty list."""
        assert th("plugins", "list") == (
            0,
            "",
            "No plugins are installed. Try `pip install tenterhook`.\n",
        )
        assert th("plugins", "list", "--json")[1] == "[]\n"


class TestPluginsInfo:
    @pytest.mark.parametrize("name", ["Both", "some", "some-plugin"])
    def test_it_shows_an_extension_or_all_of_a_plugin(
        self, th: Th, install: Install, name: str
    ) -> None:
        """By the name of the extension, of the entry point, or of the distribution."""
        install("some-plugin", {"some": BOTH}, version="2.0")

        code, out, _ = th("plugins", "info", name)

        assert code == 0
        assert ("Alone" in out) is (name != "Both")
        assert "nowhere:Both" in out
        assert "detector, controller" in out

    def test_an_unknown_name(self, th: Th) -> None:
        """Is a mistake of usage."""
        code, out, err = th("plugins", "info", "Nothing")

        assert (code, out) == (2, "")
        assert "'Nothing'" in err


class TestLayers:
    @pytest.fixture(autouse=True)
    def a_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Load two layers, whatever the name."""
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        monkeypatch.setattr(
            "tenterhook_capture.loading.load_model", lambda name: tenterhook.attach(model)
        )

    def test_they_are_listed_as_pytorch_names_them(self, th: Th) -> None:
        """Name, type, and the shape of each weight."""
        assert th("layers", "any") == (
            0,
            "0  Linear  weight 8x4  bias 8\n1  ReLU\n",
            "",
        )

    def test_as_json(self, th: Th) -> None:
        """For programs."""
        assert json.loads(th("layers", "any", "--json")[1]) == [
            {"name": "0", "type": "Linear", "weights": {"weight": [8, 4], "bias": [8]}},
            {"name": "1", "type": "ReLU", "weights": {}},
        ]


class TestProcess:
    """What only a process of its own shows."""

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """Start the command line."""
        return subprocess.Popen(
            [sys.executable, "-m", "tenterhook", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def test_python_m_tenterhook_is_the_command(self) -> None:
        """The script of that name need not be on the path."""
        out, err = self.start("--version").communicate()

        assert (out, err) == (f"tenterhook, version {__version__}\n", "")

    def test_a_reader_that_stops_is_no_error(self) -> None:
        """`tenterhook ... | head` ends quietly."""
        process = self.start("plugins", "list", "--json")
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None

        assert process.stderr.read() == ""
        assert process.wait() == 1
        process.stderr.close()

    @pytest.mark.parametrize(("no_color", "bold"), [("", True), ("1", False)])
    def test_a_terminal_gets_bold_names(
        self, th: Th, install: Install, no_color: str, bold: bool
    ) -> None:
        """Unless `NO_COLOR` is set."""
        site = install("some-plugin", {"some": BOTH})
        ours, terminal = os.openpty()
        subprocess.run(
            [sys.executable, "-m", "tenterhook", "plugins", "list"],
            stdout=terminal,
            env={**os.environ, "PYTHONPATH": str(site), "NO_COLOR": no_color},
            check=True,
        )
        os.close(terminal)
        out = os.read(ours, 10_000).decode()
        os.close(ours)

        assert ("\x1b[1mAlone" in out) is bold
        assert "Alone" in out

    def test_ctrl_c_ends_it_with_one_line(self, tmp_path: Path) -> None:
        """Exit code 130, as shells expect, and no traceback."""
        tmp_path.joinpath("slow.py").write_text(
            textwrap.dedent(
                """
                import signal, sys, time, click
                import tenterhook_cli.command_line

                signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever ignored it

                @click.command()
                def slow():
                    print("ready", flush=True)
                    time.sleep(60)

                tenterhook_cli.command_line.COMMANDS["slow"] = "__main__:slow"
                tenterhook_cli.main(["slow"])
                """
            )
        )
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "slow.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)

        _, err = process.communicate()

        assert err.strip() == "stopped."
        assert process.returncode == 130

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_in_the_middle_of_an_import(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        """It is not lost in a module that catches whatever its imports raise."""
        tmp_path.joinpath("deep.py").write_text(
            f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.2)\n"
        )
        tmp_path.joinpath("greedy.py").write_text(
            "try:\n    import deep\nexcept BaseException:\n    print('lost')\n"
        )
        tmp_path.joinpath("slow.py").write_text(
            textwrap.dedent(
                """
                import time, click
                import tenterhook_cli.command_line
                from tenterhook_cli.progress import stoppable

                @click.command()
                @stoppable()
                def slow():
                    import greedy
                    print("imported", flush=True)
                    time.sleep(60)

                tenterhook_cli.command_line.COMMANDS["slow"] = "__main__:slow"
                tenterhook_cli.main(["slow"])
                """
            )
        )
        done = subprocess.run(
            [sys.executable, str(tmp_path / "slow.py")],
            capture_output=True,
            text=True,
            timeout=50,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert (done.returncode, done.stdout) == (130, "imported\n")
        assert done.stderr.strip() == "stopped."
