"""Small pieces of markup: lines of text, tables, and numbers as people read them."""

from collections.abc import Sequence
from html import escape

from tenterhook.one_line import printable


def line(text: str, longest: int = 500) -> str:
    """Return words of others as a line of markup: escaped, nothing in it hidden, cut where long."""
    return escape(printable(text, longest))


def number(value: float) -> str:
    """Return a number as people read it, three digits and more where there are."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table of texts, which are escaped; the first of each row heads it."""
    heads = "".join(f'<th scope="col">{line(each)}</th>' for each in head)
    lines = [
        f'<tr><th scope="row">{line(first)}</th>'
        + "".join(f"<td>{line(each)}</td>" for each in rest)
        + "</tr>"
        for first, *rest in rows
    ]
    title = f"<caption>{line(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{title}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
