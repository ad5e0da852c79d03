"""The part `diff`: two texts side by side, what is in one alone marked."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

from tenterhook_view.markup import line
from tenterhook_view.parts import Part
from tenterhook_view.token_texts import lines_of

MOST_TOKENS = 2000
"""Tokens of each text that are compared: comparing takes the square of them."""


def diff(
    before: str | Sequence[str],
    after: str | Sequence[str],
    *,
    names: tuple[str, str] = ("without", "with"),
    title: str = "With and without",
) -> Part:
    """Return a part with two texts, as tokens or as strings, which are compared word by word.

    What is in the first alone is marked as deleted, in the second alone as inserted: by colour, and
    by a line through or under it. The first 2,000 tokens of each are shown.
    """
    one, other = _pieces(before), _pieces(after)
    first, second = [], []
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    for what, a, b, c, d in matcher.get_opcodes():
        old, new = escape("".join(one[a:b])), escape("".join(other[c:d]))
        first.append(old if what == "equal" or not old else f"<del>{old}</del>")
        second.append(new if what == "equal" or not new else f"<ins>{new}</ins>")
    columns = "".join(
        f'<div><h3>{line(name)}</h3><p class="text">{"".join(text)}</p></div>'
        for name, text in zip(names, (first, second), strict=True)
    )
    return Part(kind="plain", title=title, markup=f'<div class="two">{columns}</div>')


def _pieces(text: str | Sequence[str]) -> list[str]:
    if isinstance(text, str):
        words: list[str] = []
        for line in text.splitlines(keepends=True):
            words += [each for word in line.split(" ") for each in (word, " ")][:-1]
        text = words
    return lines_of(text[:MOST_TOKENS])
