"""The markup that notebooks are shown: escaped, legible, bounded, and asked for no more."""

import re
from collections.abc import Iterator
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
