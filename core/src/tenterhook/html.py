"""Markup for notebooks: what `_repr_html_` of our objects, and of plugins', is made of.

Texts and names come from strangers, so `text` is the one way in: it escapes, writes out what is not
seen, and cuts. A notebook is stored with all that it shows, so tables and trees stop at 64 kB, and
rows that do not fit are not asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tenterhook.one_line import printable

MOST = 64_000
"""Bytes of what is shown at most."""

Branches = Mapping[str, "Branches"]
"""Labels, each with what is under it."""


def text(value: object, longest: int = 200) -> str:
    """Return a value's text as a line of markup, of `longest` characters before it is escaped."""
    return escape(printable(str(value), longest))


def table(rows: Iterable[Sequence[object]], room: int = MOST) -> str:
    """Return a table of texts, whose first row heads it; `…` stands for what does not fit."""
    found = ["<table>"]
    for row in rows:
        kind = "td" if len(found) > 1 else "th"
        cells = "".join(f"<{kind}>{text(each)}</{kind}>" for each in row)
        room -= len(f"<tr>{cells}</tr>".encode())
        if room < 100:
            return f"{''.join(found)}<tr><td>…</td></tr></table>"
        found.append(f"<tr>{cells}</tr>")
    return f"{''.join(found)}</table>"


def tree(label: str, under: Branches, room: int = MOST) -> str:
    """Return a tree that folds; each branch has its share of the room, `…` stands for the rest.

    Empty where not even the label fits.
    """
    found = [f"<details open><summary>{text(label)}</summary>"]
    left = room - len(found[0].encode()) - 30  # of the end, and of a `…`
    for at, (each, more) in enumerate(under.items()):
        found.append(tree(each, more, left // (len(under) - at)) or "<div>…</div>")
        left -= len(found[-1].encode())
        if found[-1] == "<div>…</div>":
            break
    whole = f"{''.join(found)}</details>" if under else f"<div>{text(label)}</div>"
    return whole if len(whole.encode()) <= room else ""
