"""`tenterhook plugins info`, on signatures of all kinds, and terminals that lack letters."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tenterhook.testing.fixtures import InstalledPlugins

Th = Callable[..., tuple[object, str, str]]


def answering(answer: str) -> str:
    """Return the source of a plugin whose hook returns that."""
    return f"""
from tenterhook import Extension, hookimpl
@hookimpl
def tenterhook_detectors(): return {answer}
"""


CODE = """
class NoRepr:
    def __repr__(self): raise OSError("no")
class Defaults:
    def __init__(self, a: int = NoRepr(), b: str = "x" * 10**6, c: int = 1): pass
"""


class TestInfo:
    """`info` reads signatures, whatever they are of."""

    def test_a_default_that_cannot_be_shown_spoils_no_other(
        self, install: InstalledPlugins, th: Th
    ) -> None:
        """Its type stands for it."""
        install.site.joinpath("plugin_code.py").write_text(CODE)
        install("odd", {"odd": answering("[Extension('Odd', 'plugin_code:Defaults', 'Does.')]")})

        out = " ".join(th("plugins", "info", "odd")[1].split())

        assert "a: int = <NoRepr>" in out
        assert "c: int = 1" in out

    @pytest.mark.parametrize("code", ["raise BaseException('no')", "raise GeneratorExit"])
    def test_an_import_that_would_end_the_program(
        self, install: InstalledPlugins, th: Th, code: str
    ) -> None:
        """It is one line."""
        install.site.joinpath("plugin_code.py").write_text(code)
        install("odd", {"odd": answering("[Extension('Odd', 'plugin_code:Odd', 'Does it.')]")})

        status, out, _ = th("plugins", "info", "odd")

        assert status == 0
        assert "cannot be read: ImportError: Detector 'Odd' of plugin 'odd' (odd 1.0) cannot" in out

    def test_types_for_checkers_alone_are_shown_as_written(
        self, install: InstalledPlugins, th: Th
    ) -> None:
        """They cannot be looked up, and `Any` would be wrong."""
        install.site.joinpath("plugin_code.py").write_text(
            "from __future__ import annotations\n"
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from collections import OrderedDict\n"
            "class Odd:\n"
            "    def __init__(self, a: OrderedDict[str, int] | None = None, b: int = 2): pass\n"
        )
        install("odd", {"odd": answering("[Extension('Odd', 'plugin_code:Odd', 'Does it.')]")})

        out = " ".join(th("plugins", "info", "odd")[1].split())

        assert "parameter a: OrderedDict[str, int] | None = None" in out
        assert "parameter b: int = 2" in out


class TestCommands:
    """`info` of a command has its options and arguments."""

    def test_an_option_without_a_default(self, install: InstalledPlugins, th: Th) -> None:
        """Has none that is click's own affair; a flag is off."""
        install.site.joinpath("plugin_code.py").write_text(
            "import click\n"
            "@click.command()\n"
            "@click.option('--out')\n"
            "@click.option('--tries', default=3)\n"
            "@click.option('--json', is_flag=True)\n"
            "@click.argument('name')\n"
            "def command(out, tries, json, name):\n"
            "    'Do it.'\n"
        )
        answer = "[Extension('odd', 'plugin_code:command', 'Does it.')]"
        install("odd", {"odd": answering(answer).replace("detectors", "commands")})

        out = " ".join(th("plugins", "info", "odd")[1].split())

        assert "parameter --out: text = None" in out
        assert "parameter --tries: integer = 3" in out
        assert "parameter --json: boolean = False" in out
        assert "parameter name: text required" in out


def test_a_terminal_that_lacks_letters_gets_escapes(install: InstalledPlugins) -> None:
    """A line of help in another alphabet is no reason to fail."""
    site = install("odd", {"odd": answering("[Extension('Odd', 'a:b', 'Zählt ✓.')]")})
    done = subprocess.run(
        [sys.executable, "-m", "tenterhook", "plugins", "list"],
        capture_output=True,
        env={
            **os.environ,
            "PYTHONIOENCODING": "latin-1",
            "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]),
            "TENTERHOOK_PLUGINS": "odd",
        },
    )

    assert done.returncode == 0, done.stderr
    assert b"Z\xe4hlt \\u2713." in done.stdout
