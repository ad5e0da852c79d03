"""The markup that notebooks are shown: escaped, legible, bounded, and asked for no more."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tenterhook
from tenterhook.hooks import Detector, HookType
from tenterhook.html import MOST, Branches, table, text, tree

HOSTILE = ["<script>x</script>", '" onload="x', "\u202eabc", "\ud800", "a" * 10**6, "\x00\x1b[2J"]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_text_is_inert_and_legible(value: str) -> None:
    """No markup is made of it, and what is hidden in it is written out."""
    shown = text(value)

    assert not re.search(r"[<>\"\u202e\x00\x1b\ud800]", shown)
    assert len(shown) < 2000
    assert unescape(shown).startswith(value[:1] if value[:1].isprintable() else "\\")


def test_a_table_is_headed_by_its_first_row() -> None:
    """Cells are anything that has a text."""
    assert table([("layer", "rows"), ("<a>", 3)]) == (
        "<table><tr><th>layer</th><th>rows</th></tr><tr><td>&lt;a&gt;</td><td>3</td></tr></table>"
    )


def test_rows_that_do_not_fit_are_not_asked_for() -> None:
    """A store may have a million runs."""
    asked = 0

    def rows() -> Iterator[tuple[str, ...]]:
        nonlocal asked
        while True:
            asked += 1
            yield ("x" * 100,)

    assert len(table(rows()).encode()) <= MOST
    assert asked < 1000


def test_a_tree_folds() -> None:
    """Branches under their labels, leaves as lines."""
    assert tree("a", {"b": {"c": {}}, "<d>": {}}) == (
        "<details open><summary>a</summary><details open><summary>b</summary><div>c</div></details>"
        "<div>&lt;d&gt;</div></details>"
    )


def test_every_branch_has_a_share_of_the_room() -> None:
    """So that of a large model the last block is shown, too."""
    block: Branches = {f"module {at}": {"x" * 100: {}} for at in range(500)}
    shown = tree("model", {f"block {at}": block for at in range(20)})

    assert len(shown.encode()) <= MOST
    assert "block 19" in shown
    assert "module 0" in shown
    assert "…" in shown


trees: st.SearchStrategy[Branches] = st.recursive(
    st.just({}), lambda inner: st.dictionaries(st.text(max_size=300), inner, max_size=5)
)


@given(trees, st.integers(0, 3000))
def test_any_tree_is_whole_and_within_its_room(under: Branches, room: int) -> None:
    """Every element is closed; nothing is longer than it may be."""
    shown = tree("label", under, room)

    assert len(shown.encode()) <= room or not shown
    for tag in ("details", "summary", "div"):
        assert len(re.findall(f"<{tag}[ >]", shown)) == shown.count(f"</{tag}>")


class Sees(Detector):
    """A detector that does nothing."""

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        """Do nothing."""


def test_a_model_shows_its_layers_and_what_hooks_stand_where() -> None:
    """As a tree, of the model as a whole, too."""
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = tenterhook.attach(nn.ModuleDict({"<b>": inner, "same": inner}))
    hooks = [Sees(HookType.FORWARD, hook_id=name) for name in ("one", "two", "three")]
    for hook, layer in zip(hooks, ("<b>.0", "<b>.0", "output"), strict=True):
        model.layers.register_hook(layer, hook)

    shown = unescape(model._repr_html_())
    assert "<summary><b>: Sequential</summary>" in shown
    assert re.search(r"<div>0: Linear .*'one'.*'two'.*</div><div>1: ReLU</div>", shown)
    assert re.search(r"<div>output: .*'three'", shown)
    assert "&lt;b&gt;: Sequential" in model._repr_html_()
    model.layers.clear()


def test_a_large_model_is_shown_in_little_room() -> None:
    """All of its blocks, and of each the beginning."""
    blocks = [nn.Sequential(*(nn.ReLU() for _ in range(60))) for _ in range(100)]
    shown = tenterhook.attach(nn.Sequential(*blocks))._repr_html_()

    assert len(shown.encode()) <= MOST
    assert "99: Sequential" in shown


def test_a_capture_shows_what_it_saw() -> None:
    """Calls and shapes; of layers that did not run, that there was none."""
    model = tenterhook.attach(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Identity()))
    with model.capture("0", "2", missing="ignore") as captured:
        empty = captured._repr_html_()
        model(torch.ones(4, 2))

    assert "<tr><td>0</td><td>0</td></tr>" in empty
    assert "<tr><td>0</td><td>1</td><td>(4, 3) torch.float32 cpu</td>" in captured._repr_html_()
