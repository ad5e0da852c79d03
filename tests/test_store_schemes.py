"""A store that a stranger's plugin serves by URL scheme, through the whole command line.

The store is the one that docs/how-to/write-a-store.md ends with, installed as pip would.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tenterhook.testing.fixtures import InstalledPlugins
from tenterhook_cli import main
from tenterhook_store import LocalStore, open_store

ROOT = Path(__file__).parents[1]
PLUGIN = """
from tenterhook import Extension, hookimpl

@hookimpl
def tenterhook_stores():
    return [
        Extension("SqliteStore", "sqlite_code:SqliteStore", "In a file.", schemes=("sqlite",)),
        Extension("OddStore", "sqlite_code:OddStore", "Is not one.", schemes=("odd",)),
    ]

@hookimpl
def tenterhook_loaders():
    return [Extension("words", "sqlite_code:load", "A small model.")]

@hookimpl
def tenterhook_datasets():
    return [Extension("words", "sqlite_code:read", "A few texts.")]
"""
MORE = """
class OddStore:
    def __init__(self, place):
        pass

def load(name, *, dtype, device, revision):
    from tenterhook_capture.testing.text_models import WordModel
    return WordModel()

def read(name, *, field):
    from tenterhook_capture.documents import Documents
    return Documents(["a b c", "d e", "f g h i j"], source="words:")
"""

Th = Callable[..., tuple[object, str, str]]


@pytest.fixture
def th(
    tenterhook_install: InstalledPlugins,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Th:
    """Install the store, and run the command line in an empty folder."""
    page = (ROOT / "docs/how-to/write-a-store.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (first,) = (at for at, block in enumerate(blocks) if block.startswith('"""A store in one'))
    (last,) = (at for at, block in enumerate(blocks) if block.startswith("class SqliteStore:"))
    site = tenterhook_install("sqlite-plugin", {"sqlite": PLUGIN})
    site.joinpath("sqlite_code.py").write_text("\n".join([*blocks[first : last + 1], MORE]))
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(args)
        return stop.value.code, *capsys.readouterr()

    return run


def capture(th: Th, out: str) -> tuple[object, str, str]:
    """Capture ten rows in three units."""
    options = ["--data", "words:", "--out", out, "--run-name", "first", "--rows-per-unit", "4"]
    return th("capture", "words:", "--layer", "blocks.0", *options)


def test_a_run_goes_there_and_is_read_there(th: Th, tmp_path: Path) -> None:
    """From `--out sqlite:x.db` to `runs verify`; nothing else is made."""
    code, _, err = capture(th, "sqlite:x.db")
    assert code == 0, err
    assert tmp_path.joinpath("x.db").is_file()
    assert not tmp_path.joinpath("sqlite:x.db").exists()

    code, out, _ = th("runs", "list", "sqlite:x.db", "--json")
    assert code == 0
    assert [(row["run"], row["rows"]) for row in json.loads(out)] == [("first", 10)]
    assert "blocks.0" in th("runs", "show", "sqlite:x.db")[1]
    assert th("runs", "verify", "sqlite:x.db")[0] == 0
    assert "is complete" in th("work", "sqlite:x.db", "first")[1]

    store = open_store("sqlite:x.db")
    assert store.run("first")["blocks.0"][:].shape[0] == 10
    assert LocalStore("sqlite:x.db").runs() == ["first"]


def test_a_run_is_named_by_its_place_in_the_store(th: Th) -> None:
    """`STORE/runs/RUN` as with folders."""
    capture(th, "sqlite:x.db")

    code, out, _ = th("runs", "show", "sqlite:x.db/runs/first")

    assert code == 0
    assert "first" in out


def test_a_store_that_is_not_there(th: Th) -> None:
    """Reading makes nothing."""
    code, _, err = th("runs", "list", "sqlite:none.db")

    assert code == 2
    assert "none.db" in err
    assert not Path("none.db").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "list", "sqlit:x.db"),
        ("runs", "show", "sqlit:x.db", "first"),
        ("work", "sqlit:x.db", "first"),
        ("capture", "words:", "--layer", "blocks.0", "--data", "words:", "--out", "sqlit:x.db"),
    ],
    ids=" ".join,
)
def test_an_unknown_scheme_makes_no_folder(th: Th, command: tuple[str, ...]) -> None:
    """It is one line that lists those there are."""
    code, out, err = th(*command)

    assert (code, out) == (2, "")
    assert "error: No installed plugin has stores named 'sqlit:'" in err
    assert "Known are odd:, sqlite:. For a folder of that name write './sqlit:x.db'." in err
    assert not Path("sqlit:x.db").exists()


def test_a_store_that_cannot_be_called_is_named(th: Th) -> None:
    """It is the plugin's fault, and no user's."""
    code, _, err = th("runs", "list", "odd:x")

    assert code == 1
    assert "Scheme 'odd' of plugin 'sqlite' (sqlite-plugin 1.0) cannot be called as" in err
    assert "unexpected keyword argument 'create'" in err
