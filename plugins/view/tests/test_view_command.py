"""`tenterhook view` and `tenterhook plot`, as users run them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook_cli import main
from tenterhook_cli.testing import CommandContract
from tenterhook_store import LocalStore, RowBlock, Run


class TestView(CommandContract):
    """`tenterhook view` does what every command does."""

    name = "view"


class TestPlot(CommandContract):
    """`tenterhook plot` does what every command does."""

    name = "plot"


@pytest.fixture
def store(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run in a folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    writer = LocalStore("acts").write_run("first", run.plan)
    with writer.open_unit(run.plan.unit(0)) as unit:
        unit.append(
            RowBlock(
                tokens=run.tokens[:],
                documents=run.documents.index[:],
                positions=run.documents.position[:],
                layers={name: run[name][:] for name in run.layers},
            )
        )
        unit.commit({})
    return "acts"


def call(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """Run the command; return its exit code and what it printed."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code, *capfd.readouterr()


def test_a_page_is_written(store: str, capfd: Any) -> None:
    """Where there is no tokenizer, ids stand for tokens, and the page says why."""
    status, out, err = call(capfd, "view", store, "--layer", "blocks.1", "--out", "p.html")

    assert (status, out, err) == (0, "", "Wrote p.html.\n")
    text = Path("p.html").read_text()
    assert "#5</span>" in text
    assert "Token ids stand for tokens: " in text
    assert "blocks.0" not in text


def test_tokens_in_the_terminal(store: str, capfd: Any, run: Run) -> None:
    """A line for each where there is no terminal, its number beside it."""
    words = ("view", store, "first", "--terminal", "--document", "1", "--by", "feature:2")
    status, out, _ = call(capfd, *words)

    assert status == 0
    head, *lines = out.splitlines()
    assert head == "document\ttoken\tfeature 2 at blocks.0\ttext"
    assert len(lines) == 10
    assert lines[3].split("\t")[:2] == ["1", "3"]
    assert float(lines[3].split("\t")[2]) == pytest.approx(float(run["blocks.0"][13, 2]), rel=1e-4)


def test_tokens_are_coloured_in_a_terminal(
    store: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scale, and none of it where `NO_COLOR` is set."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    _, coloured, _ = call(capfd, "view", store, "--terminal")
    monkeypatch.setenv("NO_COLOR", "1")
    _, plain, _ = call(capfd, "view", store, "--terminal")

    assert "\x1b[38;5;16;48;5;" in coloured
    assert "Document 2" in coloured
    assert "\x1b" not in plain


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((), "Give --out PAGE for a page, or --terminal"),
        (("--out", "p.html", "--terminal"), "Give --out PAGE for a page, or --terminal"),
        (("--out", "p.html", "--sae", "a", "--probe", "b"), "give one of them"),
        (("--out", "p.html", "--latent", "1"), "--latent is of an SAE"),
        (("--out", "p.html", "--direction", "none.npy"), "none.npy is no file"),
        (("--out", "p.html", "--document", "3"), "no rows of document 3"),
        (("--out", "p.html", "--by", "size"), "by='size' is not among: norm, feature:N, surprise"),
    ],
)
def test_what_is_typed_wrong(store: str, capfd: Any, words: tuple[str, ...], match: str) -> None:
    """Is the user's mistake, and no page is written."""
    status, _, err = call(capfd, "view", store, *words)

    assert status == 2
    assert match in err
    assert not Path("p.html").exists()


def test_a_picture_without_matplotlib(
    store: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Says what to install; an ending that is no picture's is told first."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    status, _, err = call(capfd, "plot", store, "--out", "p.svg")
    assert status == 1
    assert "pip install 'tenterhook-view[plot]'" in err
    status, _, err = call(capfd, "plot", store, "--out", "p.gif")
    assert status == 2
    assert "p.gif ends in none of: .svg, .png, .pdf" in err


@pytest.mark.parametrize("what", ["layers", "histogram", "tokens"])
def test_a_picture_is_drawn(store: str, capfd: Any, what: str) -> None:
    """By matplotlib, where it is installed."""
    pytest.importorskip("matplotlib")
    status, _, err = call(capfd, "plot", store, "--what", what, "--out", "p.svg")

    assert (status, err) == (0, "Wrote p.svg.\n")
    assert Path("p.svg").read_text().startswith("<?xml")
    assert torch.is_grad_enabled()
