"""The parts of a page, made of arrays and texts."""

import base64
import re
from typing import Any

import attrs
import pytest
import torch

import tenterhook_view as view
from tenterhook_view.notebook import asset


def test_a_grid_has_a_cell_for_each_number() -> None:
    """Coloured by it, with a sentence to read."""
    part = view.grid([[0.0, 1.0], [2.0, 9.0]], ["a", "b"], ["x", "y"], name="size")

    assert re.findall(r"<td class=(s\d)>(\S+?)</td>", part.markup)[-1] == ("s9", "9")
    assert part.data["says"][3] == "b, “y” (token 1): size 9"


def test_a_grid_shows_500_tokens() -> None:
    """And says how many it leaves out."""
    part = view.grid(torch.rand(2, 600), ["a", "b"], ["x"] * 600)

    assert part.markup.count("<td ") == 1000
    assert "100 tokens more are not shown." in part.markup


@attrs.frozen
class Lens:
    """What a logit lens found."""

    input_tokens: list[str]
    layers: list[str]
    tokens: list[list[list[str]]]
    probabilities: Any


def test_a_lens_names_the_best_tokens() -> None:
    """The best of them in the cell, the others in what is read."""
    found = Lens(
        ["In", " the"],
        ["0"],
        [[[" the", " a"], [" beginning", " end"]]],
        torch.tensor([[[0.75, 0.125], [0.5, 0.25]]]),
    )
    part = view.lens(found)

    assert re.findall(r"<td class=s\d>(.+?)</td>", part.markup) == [" the", " beginning"]
    assert part.data["says"][1] == "0, “ the” (token 1): “ beginning” 50.0%, “ end” 25.0%"
    with pytest.raises(
        view.WrongShape, match=r"probabilities has the .* \(1, 2, 2\), not \(1, 1, r"
    ):
        view.lens(found, input_tokens=["In"])


def test_what_an_analysis_found_goes_into_a_page() -> None:
    """The logit lens of a model: as a part of its own, and by itself."""
    import tenterhook_tiny
    from tenterhook_analysis import logit_lens

    found = logit_lens(tenterhook_tiny.load(), "In the beginning", k=3)
    part = view.lens(found)
    (plain,) = view.page(found).parts

    assert part.kind == plain.kind == "cells"
    assert len(part.data["says"]) == len(plain.data["says"]) == 4 * len(found.input_tokens)
    assert part.markup.index(found.layers[-1]) < part.markup.index(found.layers[0])
    assert "%" in part.data["says"][0]


@pytest.mark.parametrize("layered", [False, True], ids=["heads", "layers"])
def test_attention_is_packed_by_head(layered: bool) -> None:
    """A byte for each pair, of each token those up to it."""
    pattern = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    given = pattern[None, None] if layered else pattern[None]
    part = view.attention(["a", "b"], given)

    (head,) = part.data["heads"]
    assert list(base64.b64decode(head)) == [255, 64, 191]
    assert ("layer 0, head 0" if layered else "head 0") in part.markup


def test_attention_is_bounded() -> None:
    """500 tokens at most, fewer of many heads, so that all fits."""
    few = view.attention(["x"] * 600, torch.rand(1, 600, 600))
    many = view.attention(["x"] * 300, torch.rand(1, 1, 1).expand(144, 300, 300))

    assert "100 tokens more are not shown." in few.markup
    assert sum(map(len, many.data["heads"])) < 900_000
    assert "tokens more are not shown." in many.markup
    with pytest.raises(
        view.WrongShape, match=r"patterns has the shape \(2, 3\), not \(heads, 2, 2\)"
    ):
        view.attention(["a", "b"], torch.rand(2, 3))
    with pytest.raises(view.WrongShape, match=r"heads has the shape \(2,\), not \(1,\), a name"):
        view.attention(["a", "b"], torch.rand(1, 2, 2), heads=["x", "y"])


def test_examples_come_best_first() -> None:
    """Around the token where they are highest, over a histogram."""
    words = [f"w{at} " for at in range(100)]
    scores = torch.zeros(100)
    scores[50] = 3.0
    part = view.examples([(["a"], [1.0]), (words, scores)], name="latent 7")

    first, second = re.findall(r"<li>(.+?)</li>", part.markup)
    assert first.startswith("3")
    assert "<strong><span class=s9>w50 </span></strong>" in first
    assert "w10 " not in first
    assert second.startswith("1")
    assert "101 numbers (latent 7) from 0 to 3" in part.markup
    with pytest.raises(view.WrongShape, match=r"value has the shape \(1,\), not \(2,\)"):
        view.examples([(["a", "b"], [1.0])])
    assert "None." in view.examples([]).markup


def test_a_diff_marks_what_is_in_one_alone() -> None:
    """In words or in tokens."""
    part = view.diff("the dog ran", "the cat ran")

    assert "<del>dog</del>" in part.markup
    assert "<ins>cat</ins>" in part.markup
    same = view.diff(["a", "b"], ["a", "b"])
    assert "<ins>" not in same.markup


def palette(style: str, which: str) -> dict[str, str]:
    """Return the colours of the light or of the dark page."""
    light, dark = re.findall(r":root \{(.+?)\}", style, re.DOTALL)[:2]
    return dict(re.findall(r"--(\w+): (#\w{6})", light if which == "light" else dark))


def luminance(colour: str) -> float:
    """Return how light a colour is, as the guidelines for accessible content define it (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("which", ["light", "dark"])
def test_colours_can_be_read(which: str) -> None:
    """Text on each has a contrast of 4.5 to 1; amounts differ in lightness, one step after another.

    So they are told apart in print, and by who sees no red or no green.
    """
    colours = palette(asset("page.css"), which)
    ink = luminance(colours["ink"])
    amounts = [luminance(colours[f"s{at}"]) for at in range(10)]
    signed = [luminance(colours[f"d{at}"]) for at in range(9)]

    for each in (*amounts, *signed, luminance(colours["paper"])):
        darker, lighter = sorted((each, ink))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5
    soft, paper = luminance(colours["soft"]), luminance(colours["paper"])
    assert (max(soft, paper) + 0.05) / (min(soft, paper) + 0.05) >= 4.5
    order = -1 if which == "light" else 1
    assert amounts == sorted(amounts, key=lambda each: order * each)
    assert signed[4:] == sorted(signed[4:], key=lambda each: order * each)
    assert signed[:5] == sorted(signed[:5], key=lambda each: -order * each)


def test_printed_colours_are_those_of_the_light_page() -> None:
    """A page that is dark on the screen is printed as dark ink on white."""
    style = asset("page.css")
    printed = dict(re.findall(r"--(\w+): (#\w{6})", style.partition("@media print")[2]))

    light = palette(style, "light")
    assert {name: printed[name] for name in light if name[0] in "sd" and name[1:].isdigit()} == {
        name: light[name] for name in light if name[0] in "sd" and name[1:].isdigit()
    }
