"""What is not ours is never trusted to behave: odd objects, odd metadata, odd signatures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from tenterhook.extensions import Extension
from tenterhook.plugins import MissingDependency, PluginManager
from tenterhook.testing.fixtures import InstalledPlugins

Th = Callable[..., tuple[object, str, str]]

HEAD = """
from tenterhook import Extension, hookimpl
def fails(*args, **kwargs): raise Bad("no")
class Bad(BaseException): pass
class Text(str):
    __eq__ = __str__ = __repr__ = __format__ = strip = replace = isidentifier = fails
    __hash__ = str.__hash__
def one(name): return Extension(name, "fractions:Fraction", "Does it.")
"""
PLUGIN = """
@hookimpl
def tenterhook_detectors(): return [one("Odd")]
"""
GOOD = HEAD + PLUGIN.replace("Odd", "Good")


def answering(answer: str, before: str = "") -> str:
    """Return the source of a plugin whose hook returns that."""
    return f"{HEAD}\n{before}\n@hookimpl\ndef tenterhook_detectors(): return {answer}\n"


def being(members: str) -> str:
    """Return the source of a plugin that is an object of a class with those members."""
    return f"""{HEAD}
class Plugin:
    __name__ = "odd"
    @hookimpl
    def tenterhook_detectors(self): return [one("Odd")]
    {members}
import sys
sys.modules[__name__] = Plugin()
"""


ODD = {
    "a list without an end": answering(
        "Endless()", "class Endless(list):\n    def __iter__(self):\n        while True: yield 1"
    ),
    "a generator without an end": answering("(1 for _ in iter(int, 1))"),
    "a coroutine": answering("[one('Odd')]").replace("def tenterhook", "async def tenterhook"),
    "a mapping": answering("Odd(a=1)", "class Odd(dict):\n    __iter__ = keys = items = fails"),
    "what has no repr": answering("[Odd()]", "class Odd:\n    __repr__ = fails"),
    "what lies of its class": answering("[Odd()]", "class Odd:\n    __class__ = property(fails)"),
    "what is of a class that cannot be named": answering(
        "[Odd()]",
        "class Meta(type):\n    __name__ = property(fails)\n    __instancecheck__ = fails\n"
        "class Odd(metaclass=Meta):\n    __repr__ = fails",
    ),
    "a kind of Extension": answering(
        "[Odd('Odd', 'a:b', 'Does it.')]",
        "class Odd(Extension):\n    name = property(fails)\n    __init__ = lambda *_: None",
    ),
    "an extension that was never made": answering("[Extension.__new__(Extension)]"),
    "an extension that was changed": answering(
        "[odd]", "odd = one('Odd'); object.__setattr__(odd, 'name', 'two words')"
    ),
    "an extension whose name is no text": answering(
        "[odd]", "odd = one('Odd'); object.__setattr__(odd, 'name', fails)"
    ),
    "a name without an end": answering("[one('X' * 10**6)]"),
    "a name for the terminal": answering("[one('\\x1b[2J')]"),
    "help without an end": answering("[Extension('Odd', 'a:b', 'x' * 10**6)]"),
    "needs for the terminal": answering("[Extension('Odd', 'a:b', 'x', needs='\\x1b[2J')]"),
    "a contract that cannot be compared": answering(
        "[]", "class N(int):\n    __gt__ = __repr__ = fails\nTENTERHOOK_CONTRACT = N(1)"
    ),
    "a module that answers nothing": HEAD + "def __getattr__(name): fails()\n" + PLUGIN,
    "an object without a dir": being("__dir__ = fails"),
    "an object that answers nothing": being("__getattribute__ = fails"),
    "an error of a class that cannot be named": (
        HEAD + "class Meta(type):\n    __name__ = property(fails)\n"
        "class Odd(Exception, metaclass=Meta): pass\nraise Odd('no')"
    ),
    "an error for the terminal": HEAD + "raise type('\\x1b[2J', (OSError,), {})('no')",
    "an error without an end": HEAD + "raise OSError('x' * 10**7)",
    "an exit that cannot be shown": (
        HEAD + "class Odd:\n    __repr__ = fails\nraise SystemExit(Odd())"
    ),
    "a missing module without a name": (
        HEAD + "class Odd(ModuleNotFoundError):\n    name = property(fails)\nraise Odd('no')"
    ),
    "a missing module of an odd name": HEAD + "raise ModuleNotFoundError('no', name=[1])",
    "an error of ours": (
        HEAD + "from tenterhook.plugins import PluginError\nraise PluginError('x', b'\\xff')"
    ),
    "a kind of error of ours": (
        HEAD + "from tenterhook.plugins import PluginError\n"
        "class Odd(PluginError):\n    cause = property(fails)\nraise Odd('x', 'y')"
    ),
    "a hook that is no function": HEAD + "class A:\n    tenterhook_impl = {}\n"
    "    __call__ = fails\ntenterhook_detectors = A()",
    "a hook with odd settings": HEAD + "def tenterhook_detectors(): return []\n"
    "tenterhook_detectors.tenterhook_impl = {'specname': fails}",
    "a wrapper": HEAD + "@hookimpl(wrapper=True)\ndef tenterhook_detectors():\n    yield\n",
    "filters of warnings": (
        HEAD
        + "import warnings\nwarnings.simplefilter('error')\nwarnings.filters.insert(0, 1)\nfails()"
    ),
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
    assert str(problem).isprintable()
    assert len(str(problem)) < 1200
    assert capsys.readouterr() == ("", "")


FINE = {
    "names of a class of their own": answering("[one(Text('Odd'))]"),
    "an object that equals everything": being("__eq__ = lambda *_: True; __hash__ = None"),
    "an object that cannot be compared": being("__eq__ = __hash__ = fails"),
    "an object that is false": being("__bool__ = __len__ = fails"),
    "an object without a name": being("__str__ = __repr__ = fails"),
    "names of an enumeration": answering(
        "[one(Name.ODD)]", "import enum\nclass Name(enum.StrEnum):\n    ODD = 'Odd'"
    ),
}


@pytest.mark.parametrize("how", FINE)
def test_an_odd_plugin_that_keeps_the_contract_works(install: InstalledPlugins, how: str) -> None:
    """And keeps nobody else from it."""
    install("a-plugin", {"first": GOOD.replace("Good", "First")})
    install("odd-plugin", {"odd": FINE[how]})
    install("z-plugin", {"last": GOOD.replace("Good", "Last")})

    manager = PluginManager()
    manager.refresh()

    assert manager.problems == ()
    assert list(manager.extensions("detectors")) == ["First", "Last", "Odd"]
    assert {type(name) for name in manager.extensions("detectors")} == {str}
    assert manager.unregister("odd")
    assert list(manager.extensions("detectors")) == ["First", "Last"]


class TestMetadata:
    ODD: ClassVar = {
        "no name": ("METADATA", b"Version: 1.0\n"),
        "no version": ("METADATA", b"Name: odd\n"),
        "an empty name": ("METADATA", b"Name: \nVersion: 1.0\n"),
        "a name for the terminal": ("METADATA", b"Name: \x1b[2Jodd\nVersion: 1.0\n"),
        "a version for the terminal": ("METADATA", b"Name: odd\nVersion: 1\x1b[2J\n"),
        "latin-1": ("METADATA", "Name: odd\nVersion: 1.0\nAuthor: é\n".encode("latin-1")),
        "utf-16": ("METADATA", "Name: odd\nVersion: 1.0\n".encode("utf-16")),
        "no metadata": ("METADATA", b""),
        "no target": ("entry_points.txt", b"[tenterhook.plugins]\nodd =\n"),
        "a target that is none": ("entry_points.txt", b"[tenterhook.plugins]\nodd = !! ?\n"),
        "a target that ends": ("entry_points.txt", b"[tenterhook.plugins]\nodd = a.b:\n"),
        "a path": ("entry_points.txt", b"[tenterhook.plugins]\nodd = ../../etc/passwd\n"),
        "a name of it for the terminal": (
            "entry_points.txt",
            b"[tenterhook.plugins]\n\x1b[2Jodd = plugin_odd\n",
        ),
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


CODE = """
class Bad(BaseException): pass
def fails(*args, **kwargs): raise Bad("no")
class NoRepr:
    __repr__ = fails
class Loud:
    def __repr__(self): return "\\x1b[2J\\n" * 1000
class Meta(type):
    __signature__ = property(fails)
    __instancecheck__ = __subclasscheck__ = __repr__ = __eq__ = fails
    __hash__ = type.__hash__
class OfMeta(metaclass=Meta):
    __doc__ = property(fails)
class Defaults:
    def __init__(self, a: int = NoRepr(), b: str = Loud(), c: NoRepr() = 1): pass
class Evaluates:
    def __init__(self, a: "fails()", b: "import os", c: int): pass
class Descriptor:
    def __get__(self, *_): fails()
class OddModule:
    __module__ = Descriptor()
    __init__ = Descriptor()
def signed(): pass
signed.__signature__ = 3
class Callable:
    def __call__(self, a: int): pass
    def __getattr__(self, name): fails()
    __signature__ = property(fails)
instance = Callable()
"""


class TestInfo:
    """`info` reads signatures, whatever they are of."""

    @pytest.mark.parametrize(
        "target",
        ["OfMeta", "Defaults", "Evaluates", "OddModule", "signed", "instance", "NoRepr", "fails"],
    )
    @pytest.mark.parametrize("kind", ["detectors", "commands"])
    def test_it_shows_what_can_be_shown(
        self, install: InstalledPlugins, th: Th, target: str, kind: str
    ) -> None:
        """And exits with 0; JSON stays JSON."""
        install.site.joinpath("plugin_code.py").write_text(CODE)
        declared = answering(f"[Extension('Odd', 'plugin_code:{target}', 'Does it.')]")
        install("odd", {"odd": declared.replace("detectors", kind)})

        status, out, err = th("plugins", "info", "odd")
        as_json = json.loads(th("plugins", "info", "odd", "--json")[1])

        assert (status, err, as_json[0]["name"]) == (0, "", "Odd")
        assert all(line.isprintable() for line in out.splitlines())
        assert len(out) < 4000

    def test_a_default_that_cannot_be_shown_spoils_no_other(
        self, install: InstalledPlugins, th: Th
    ) -> None:
        """Its type stands for it."""
        install.site.joinpath("plugin_code.py").write_text(CODE)
        install("odd", {"odd": answering("[Extension('Odd', 'plugin_code:Defaults', 'Does.')]")})

        out = " ".join(th("plugins", "info", "odd")[1].split())

        assert "a: int = <NoRepr>" in out
        assert "c: <NoRepr> = 1" in out

    @pytest.mark.parametrize("code", ["raise BaseException('no')", "raise GeneratorExit"])
    def test_an_import_that_would_end_the_program(
        self, install: InstalledPlugins, th: Th, code: str
    ) -> None:
        """It is one line."""
        install.site.joinpath("plugin_code.py").write_text(code)
        install("odd", {"odd": answering("[Extension('Odd', 'plugin_code:Odd', 'Does it.')]")})

        status, out, _ = th("plugins", "info", "odd")

        assert status == 0
        assert "cannot be read: ImportError: The import of detector 'Odd' of plugin 'odd'" in out

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


def test_a_missing_module_is_named_whatever_it_is_called(install: InstalledPlugins) -> None:
    """By an error that somebody made."""
    install.site.joinpath("plugin_code.py").write_text(
        "raise ModuleNotFoundError('no', name='\\x1b[2J')"
    )
    install("odd", {"odd": answering("[Extension('Odd', 'plugin_code:Odd', 'Does it.')]")})

    with pytest.raises(MissingDependency) as error:
        PluginManager().load("detectors", "Odd")

    assert str(error.value).isprintable()


@pytest.mark.parametrize("field", ["name", "target", "help", "needs", "example"])
def test_texts_of_an_extension_are_plain(field: str) -> None:
    """Whatever class of text they are made of."""

    class Text(str):
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = str.__hash__

    given = {"name": "N", "target": "a:b", "help": "h", "needs": "n", "example": "a:b"}
    made = Extension(**{**given, field: Text(given[field])})

    assert type(getattr(made, field)) is str


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "N" * 101}, "name='NNN.*longer than 100"),
        ({"help": "h" * 201}, "help='hhh.*longer than 200"),
        ({"needs": "a\nb"}, "needs='a.nb' is not what one types after `pip install`"),
    ],
    ids=str,
)
def test_texts_of_an_extension_fit_a_line(given: dict[str, str], said: str) -> None:
    """Lists and errors show them."""
    with pytest.raises(ValueError, match=said):
        Extension(**{"name": "N", "target": "a:b", "help": "h", **given})


def test_an_unfinished_path_is_no_plugin(install: InstalledPlugins, tmp_path: Path) -> None:
    """A folder of metadata that uninstalling left empty says nothing."""
    install.site.joinpath("gone-1.0.dist-info").mkdir()

    assert PluginManager().problems == ()
