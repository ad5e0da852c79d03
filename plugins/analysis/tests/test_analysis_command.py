"""`tenterhook lens`, `patch` and `steer`, as people type them."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tenterhook.testing.commands import CommandContract
from tenterhook_analysis import WrongWidth, logit_difference, patch_grid, steered
from tenterhook_analysis._cli import lens, patch, steer
from tenterhook_transformers import LanguageModel, TooLong

PROMPTS = ("--clean", "And God said unto Moses", "--corrupt", "And God said unto David")
ANSWERS = ("--right", ",", "--wrong", " the")


class TestLens(CommandContract):
    """`tenterhook lens` does what every command does."""

    name = "lens"
    works = ("tiny:", "In the")


class TestPatch(CommandContract):
    """`tenterhook patch` does what every command does."""

    name = "patch"


class TestSteer(CommandContract):
    """`tenterhook steer` does what every command does."""

    name = "steer"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (lens, ("tiny:", "a\ud800")),
        (steer, ("tiny:", "--layer", "1", "--vector", "v.npy", "--prompt", "a\ud800")),
        (patch, ("tiny:", "--clean", "a\ud800", "--corrupt", "b", "--right", "c", "--wrong", "d")),
    ],
    ids=["lens", "steer", "patch"],
)
def test_half_a_letter_is_no_text(command: click.Command, words: tuple[str, ...]) -> None:
    """No tokenizer reads it; it is said where it stands."""
    done = CliRunner().invoke(command, words)

    assert done.exit_code == 2
    assert r"character 1 is \ud800, half of a letter" in done.output


def test_prompts_that_are_too_long(tiny: LanguageModel) -> None:
    """Are told before the model is run; and those of no token."""
    long = " God" * 300
    with pytest.raises(TooLong, match="tokens and the model takes 256"):
        patch_grid(tiny, long, long, logit_difference(tiny, 1, 2))


def run(command: click.Command, *args: str) -> Result:
    """What a command prints; what it raises surfaces."""
    return CliRunner().invoke(command, args, catch_exceptions=False)


def test_lens(tiny: LanguageModel, tmp_path: Path) -> None:
    """A row for each token, a column for each layer; as JSON; as a page."""
    page = tmp_path / "page.html"
    lines = run(lens, "tiny:", "In the\x1b[2J", "--out", str(page)).stdout.splitlines()
    found = json.loads(run(lens, "tiny:", "In the", "--json", "--k", "2").stdout)

    assert lines[0].split() == list(tiny.layers.index.blocks())
    assert lines[2].startswith("'In' ")
    assert not any("\x1b" in line for line in lines)
    assert found["input_tokens"][1:] == ["In", " the"]
    assert np.array(found["probabilities"]).shape == (4, 3, 2)
    assert "Logit lens" in page.read_text()


def test_patch() -> None:
    """Shares of what lies between the prompts, and both metrics."""
    lines = run(patch, "tiny:", *PROMPTS, *ANSWERS, "--layer", "layer_3").stdout.splitlines()
    found = json.loads(run(patch, "tiny:", *PROMPTS, *ANSWERS, "--json").stdout)

    assert "->" in lines[-2]
    assert lines[-2].split()[-1] == "1.00"
    assert lines[-1].startswith("logit difference: clean ")
    assert np.array(found["values"]).shape == (4, len(found["positions"]))


def test_steer(tiny: LanguageModel, tmp_path: Path) -> None:
    """Generations side by side; the scale 0 is the model as it is."""
    vector, page = tmp_path / "v.npy", tmp_path / "page.html"
    np.save(vector, torch.randn(128, generator=torch.Generator().manual_seed(0)).numpy())
    args = ["tiny:", "--layer", "layer_2", "--vector", str(vector), "--scale", "0,50"]
    args += ["--prompt", "And God said", "--max-new-tokens", "6"]
    printed = run(steer, *args, "--out", str(page)).stdout
    found = json.loads(run(steer, *args, "--json").stdout)

    plain = tiny.generate("And God said", max_new_tokens=6, do_sample=False).continuations[0]
    assert "scale 0" in printed
    assert "scale 50" in printed
    assert [each["scale"] for each in found["generations"]] == [0.0, 50.0]
    assert found["generations"][0]["text"] == plain
    assert found["generations"][1]["text"] != plain
    assert "<ins>" in page.read_text()


def test_words_that_are_no_numbers(tmp_path: Path) -> None:
    """Say how they are written."""
    args = ("tiny:", "--layer", "layer_2", "--vector", "v.npy", "--prompt", "x", "--scale", "a")

    assert "'a' is no list of numbers: write 0,2,4,8." in run(steer, *args).stderr


def test_a_vector_that_does_not_fit(tiny: LanguageModel) -> None:
    """Is an error that names both widths."""
    with pytest.raises(WrongWidth, match=r"'transformer.h.2' has 128 features, and .* has 3"):
        steered(tiny, "And", "layer_2", torch.ones(3))


def test_steered_is_a_table(tiny: LanguageModel) -> None:
    """With a row for each prompt and scale."""
    found = steered(tiny, ["And", "But"], "layer_2", torch.ones(128), (0, 4), max_new_tokens=2)

    assert found.to_pandas().shape == (4, 3)
    assert repr(found) == "Steered('transformer.h.2', 2 prompts, scales=[0.0, 4.0])"
    assert "Steered at transformer.h.2" in found._repr_html_()
