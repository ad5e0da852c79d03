"""`tenterhook view` and `tenterhook plot`, as users run them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tenterhook_cli import main
from tenterhook_cli.testing import CommandContract
from tenterhook_store import LocalStore, RowBlock, Run
from tenterhook_view import SeveralLayers, page


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


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of two documents of the model that ships, and a vector beside it."""
    import tenterhook_tiny

    folder = tmp_path_factory.mktemp("acts")
    lm = tenterhook_tiny.load()
    texts = ["In the beginning God created", "And God said"]
    lm.activations.save(
        ["resid_post.1", "layer_3", "transformer.h.2.mlp"],
        texts,
        run_name="two",
        store=LocalStore(folder / "acts"),
    )
    save_file({"direction": torch.ones(128)}, folder / "v.safetensors")
    return folder


def test_parts_that_the_model_is_asked_for(acts: Path, capfd: Any) -> None:
    """The logit lens of stored blocks, attention a head at a time, and a text with a vector."""
    layer = "transformer.h.3"
    words = ("view", str(acts / "acts"), "--layer", layer, "--lens", "--attention", "--out")
    steer = ("--steer", str(acts / "v.safetensors"), "--scale", "2", "--prompt", "And God")
    status, _, err = call(capfd, *words, str(acts / "p.html"), *steer)

    assert (status, err) == (0, f"Wrote {acts / 'p.html'}.\n")
    text = (acts / "p.html").read_text()
    assert "Logit lens, document 0" in text
    assert "Attention, document 0" in text
    assert "<option>layer 3, head 0</option>" in text
    assert f"with 2 times the vector at {layer}" in text
    assert "And God" in text


def test_a_plugin_that_a_part_needs_is_not_there(
    acts: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How it is installed is said, and no page is written."""
    monkeypatch.setitem(sys.modules, "tenterhook_analysis", None)
    words = ("--lens", "--layer", "transformer.h.3", "--out", str(acts / "none.html"))
    status, _, err = call(capfd, "view", str(acts / "acts"), *words)

    assert status != 0
    assert "pip install 'tenterhook-view[analysis]'" in err
    assert not (acts / "none.html").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--terminal", "--lens"), "parts of a page: give --out"),
        (
            (
                *("--out", "none.html", "--layer", "transformer.h.3"),
                *("--steer", "v.safetensors", "--prompt", "a\ud800"),
            ),
            "--prompt has half of a letter in it",
        ),
        (("--out", "none.html", "--steer", "v.safetensors"), "give --layer once"),
        (("--out", "none.html", "--lens", "--layer", "transformer.h.2.mlp"), "is a block"),
    ],
)
def test_parts_that_cannot_be_had(
    acts: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], match: str
) -> None:
    """It is said why, and no page is written."""
    monkeypatch.chdir(acts)
    status, _, err = call(capfd, "view", "acts", *words)

    assert status == 2
    assert match in err
    assert not Path("none.html").exists()


def test_names_do_not_tell_the_terminal_what_to_do(acts: Path, capfd: Any) -> None:
    """A file is named as anybody likes; what is not seen in its name is written out."""
    name = acts / "a\x1b[2J\u202eb.safetensors"
    save_file({"direction": torch.ones(128)}, name)
    _, out, _ = call(
        capfd, "view", str(acts / "acts"), "--terminal", "--direction", str(name), "--tokens", "2"
    )

    assert r"direction a\x1b[2J\u202eb at transformer.h.1" in out.splitlines()[0]


def test_a_vector_is_added_to_one_layer(acts: Path) -> None:
    """Of several, nobody knows which."""
    run = LocalStore(acts / "acts").run("two")
    with pytest.raises(
        SeveralLayers, match=r"is added to one layer: give one of transformer\.h\.1, "
    ):
        page(run, steer=torch.ones(128))
