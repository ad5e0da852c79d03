"""What authors get wrong, and disks: odd answers, odd errors, odd metadata."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tenterhook.extensions import Extension
from tenterhook.plugins import MissingDependency, PluginManager
from tenterhook.testing.fixtures import InstalledPlugins

HEAD = """
from tenterhook import Extension, hookimpl
def one(name, **more): return Extension(name, "fractions:Fraction", "Does it.", **more)
"""
PLUGIN = """
@hookimpl
def tenterhook_detectors(): return [one("Odd")]
"""
GOOD = HEAD + PLUGIN.replace("Odd", "Good")


def answering(answer: str) -> str:
    """Return the source of a plugin whose hook returns that."""
    return f"{HEAD}\n@hookimpl\ndef tenterhook_detectors(): return {answer}\n"


ODD = {
    "a generator without an end": answering("(1 for _ in iter(int, 1))"),
    "a coroutine": answering("[one('Odd')]").replace("def tenterhook", "async def tenterhook"),
    "a set": answering("{one('Odd')}"),
    "a name without an end": answering("[one('X' * 10**6)]"),
    "a name for the terminal": answering("[one('\\x1b[2J')]"),
    "a name that is no text": answering("[one(3)]"),
    "a name with a dot": answering("[one('sae.Odd')]"),
    "help without an end": answering("[Extension('Odd', 'a:b', 'x' * 10**6)]"),
    "needs for the terminal": answering("[one('Odd', needs='\\x1b[2J')]"),
    "a hook with schemes": answering("[one('Odd', schemes=('odd',))]"),
    "an error for the terminal": HEAD + "raise type('\\x1b[2J', (OSError,), {})('no')",
    "an error without an end": HEAD + "raise OSError('x' * 10**7)",
    "an error that cannot be shown": (
        HEAD + "class Odd(Exception):\n    def __str__(self): raise OSError\nraise Odd"
    ),
    "a wrapper": HEAD + "@hookimpl(wrapper=True)\ndef tenterhook_detectors():\n    yield\n",
}
CAUSES = {
    "a set": "tenterhook_detectors returned a set. Return a list of Extensions.",
    "a name that is no text": "name=3 is of type int. Give text.",
    "a name with a dot": "its detector 'sae.Odd' has a dot in its name, which only commands have.",
    "a hook with schemes": "its detector 'Odd' has schemes, which only stores have.",
}


@pytest.mark.parametrize("how", ODD)
@pytest.mark.filterwarnings("error")
def test_an_odd_plugin_is_reported(
    install: InstalledPlugins, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Once, in a line that a terminal can show; those before and after it work."""
    install("a-plugin", {"first": GOOD.replace("Good", "First")})
    install("odd-plugin", {"odd": ODD[how]})
    install("z-plugin", {"last": GOOD.replace("Good", "Last")})

    manager = PluginManager()
    manager.refresh()

    assert list(manager.extensions("detectors")) == ["First", "Last"]
    (problem,) = manager.problems
    assert (problem.entry_point, problem.distribution) == ("odd", "odd-plugin")
    assert CAUSES.get(how, "") in problem.cause
    assert str(problem).isprintable()
    assert len(str(problem)) < 1200
    assert capsys.readouterr() == ("", "")


def test_names_of_an_enumeration_are_names(install: InstalledPlugins) -> None:
    """They are text."""
    names = "import enum\nclass Name(enum.StrEnum):\n    ODD = 'Odd'\n"
    install("odd-plugin", {"odd": names + answering("[one(Name.ODD)]")})

    assert list(PluginManager().extensions("detectors")) == ["Odd"]


class TestMetadata:
    ODD: ClassVar = {
        "no name": ("METADATA", b"Version: 1.0\n"),
        "no version": ("METADATA", b"Name: odd\n"),
        "an empty name": ("METADATA", b"Name: \nVersion: 1.0\n"),
        "latin-1": ("METADATA", "Name: oddé\nVersion: 1.0\n".encode("latin-1")),
        "utf-16": ("METADATA", "Name: odd\nVersion: 1.0\n".encode("utf-16")),
        "no metadata": ("METADATA", b""),
        "no target": ("entry_points.txt", b"[tenterhook.plugins]\nodd =\n"),
        "a target that is none": ("entry_points.txt", b"[tenterhook.plugins]\nodd = !! ?\n"),
        "a target that ends": ("entry_points.txt", b"[tenterhook.plugins]\nodd = a.b:\n"),
        "a path": ("entry_points.txt", b"[tenterhook.plugins]\nodd = ../../etc/passwd\n"),
        "no sections": ("entry_points.txt", b"odd\nodd = plugin_odd\n[tenterhook.plugins]\nx"),
        "bytes": ("entry_points.txt", b"\xff\xfe\x00"),
    }

    @pytest.mark.parametrize("how", ODD)
    def test_it_is_reported(self, install: InstalledPlugins, how: str) -> None:
        """With the folder, or the distribution, to repair."""
        install("a-plugin", {"first": GOOD})
        site = install("odd", {"odd": GOOD.replace("Good", "Odd")})
        name, content = self.ODD[how]
        folder = site / "odd-1.0.dist-info"
        folder.joinpath(name).write_bytes(content)

        manager = PluginManager()

        assert list(manager.extensions("detectors")) == ["Good"]
        (problem,) = manager.problems
        assert str(problem).isprintable()
        assert str(folder) in problem.cause or problem.distribution == "odd"

    def test_a_finder_that_fails(
        self, install: InstalledPlugins, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the packages that hook into imports, one lists what it has badly."""
        install("a-plugin", {"first": GOOD})

        class Odd:
            @staticmethod
            def find_distributions(context: object) -> object:
                raise OSError("no")

        from importlib import metadata

        discover = metadata.Distribution.discover
        monkeypatch.setattr(
            "tenterhook.plugins.entry_points.metadata.distributions",
            lambda: discover(path=install.paths),
        )
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Odd])

        manager = PluginManager()

        assert list(manager.extensions("detectors")) == ["Good"]
        (problem,) = manager.problems
        assert "listing what is installed failed (OSError: no)" in problem.cause


def test_a_missing_module_is_named_whatever_it_is_called(install: InstalledPlugins) -> None:
    """By an error that somebody made."""
    install.site.joinpath("plugin_code.py").write_text(
        "raise ModuleNotFoundError('no', name='\\x1b[2J')"
    )
    install("odd", {"odd": answering("[Extension('Odd', 'plugin_code:Odd', 'Does it.')]")})

    with pytest.raises(MissingDependency) as error:
        PluginManager().load("detectors", "Odd")

    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "N" * 201}, "name='NNN.* is not a name.*, in 200 characters at most"),
        ({"help": "h" * 201}, "help='hhh.* is not one line of help, in 200 characters at most"),
        ({"target": "a:" + "b" * 200}, "target='a:b.* is not an import target as 'package.mod"),
        ({"example": "a"}, "example='a' is not an import target as 'package.module:name'"),
        ({"needs": "a\nb"}, "needs='a.*b' is not what one types after `pip install`"),
        ({"schemes": "sqlite"}, "schemes='sqlite' is no tuple. Give one, as"),
        ({"schemes": ("s",)}, "schemes='s' is not a scheme: two letters or more"),
        ({"schemes": ("S3",)}, "schemes='S3' is not a scheme: .*lower case"),
        ({"schemes": ("s3:",)}, "schemes='s3:' is not a scheme: .*without its colon"),
        ({"schemes": (3,)}, "schemes=3 is of type int. Give text"),
        ({"name": "a.b.c"}, r"name='a.b.c' is not a name: .*'group.word'"),
    ],
    ids=str,
)
def test_texts_of_an_extension_fit_a_line(given: dict[str, Any], said: str) -> None:
    """Lists and errors show them."""
    with pytest.raises((ValueError, TypeError), match=said):
        Extension(**{"name": "N", "target": "a:b", "help": "h", **given})


def test_an_unfinished_path_is_no_plugin(install: InstalledPlugins, tmp_path: Path) -> None:
    """A folder of metadata that uninstalling left empty says nothing."""
    install.site.joinpath("gone-1.0.dist-info").mkdir()

    assert PluginManager().problems == ()
