"""Grids of numbers, drawn: as a table of HTML, and as a picture by matplotlib.

Colours go from white to blue, and of numbers on both sides of 0 to orange on the other: two hues
that the colour-blind tell apart and that differ in print. Each cell has its number in its title.
"""

import html
import importlib
import math
from collections.abc import Sequence
from typing import Any

import attrs
from torch import Tensor

LONGEST_HTML = 60_000
"""Bytes of a table of HTML at most; rows and columns beyond are counted instead."""

MOST_COLUMNS = 40
LONGEST_TEXT = 24
"""Characters of a label or of a cell's text that are shown."""

_BLUE, _ORANGE = (33, 102, 172), (214, 96, 20)
_MARKS = str.maketrans({"\n": "↵", "\t": "→"})


@attrs.frozen(eq=False, kw_only=True)
class Grid:
    """Numbers with a label for each row and each column, and texts to show in their places."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Tensor
    """float `[rows, columns]`, on the CPU; NaN where there is no number."""
    value_name: str
    texts: Sequence[Sequence[str]] | None = None
    """What the cells say; the numbers, if not given."""
    hovers: Sequence[Sequence[str]] | None = None
    """What is said of a cell beside its number, when it is pointed at."""

    def to_html(self) -> str:
        """Return it as a table, escaped, of at most 60 kB; labels head rows and columns."""
        shown = min(len(self.columns), MOST_COLUMNS)
        head = "".join(f"<th scope=col>{_text(each)}</th>" for each in self.columns[:shown])
        start = (
            "<table style='border-collapse:collapse;white-space:pre'>"
            f"<caption>{_text(self.title, 200)}</caption>"
            f"<thead><tr><td></td>{head}</tr></thead><tbody>"
        )
        parts, size, low, high = [start], len(start.encode()), *self.limits
        count = 0
        for row, label in enumerate(self.rows):
            cells = "".join(self._cell(row, column, low, high) for column in range(shown))
            line = f"<tr><th scope=row>{_text(label)}</th>{cells}</tr>"
            size += len(line.encode())
            if size > LONGEST_HTML:
                break
            parts.append(line)
            count += 1
        left = [
            f"{total - there:,} more {what}"
            for what, total, there in (
                ("rows", len(self.rows), count),
                ("columns", len(self.columns), shown),
            )
            if total > there
        ]
        note = f"<p>{' and '.join(left)}</p>" if left else ""
        return f"{''.join(parts)}</tbody></table>{note}"

    def plot(self, ax: Any = None) -> Any:
        """Draw it on axes of matplotlib, new ones unless given, and return them.

        Raises `ImportError`, with what to install, where matplotlib is not there.
        """
        try:
            pyplot = importlib.import_module("matplotlib.pyplot")
        except ImportError as error:
            raise ImportError(
                'Pictures are drawn by matplotlib: pip install "tenterhook-analysis[plot]".'
            ) from error
        if ax is None:
            size = (2 + 0.5 * len(self.columns), 1.5 + 0.35 * len(self.rows))
            _, ax = pyplot.subplots(figsize=size, layout="constrained")
        low, high = self.limits
        colours = "PuOr_r" if low < 0 else "Blues"
        image = ax.imshow(self.values.numpy(), cmap=colours, vmin=low, vmax=high, aspect="auto")
        columns, rows = [[_shown(text) for text in each] for each in (self.columns, self.rows)]
        ax.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
        ax.set_yticks(range(len(rows)), rows, parse_math=False)
        for row, texts in enumerate(self.texts or ()):
            for column, text in enumerate(texts):
                _, colour = _colours(float(self.values[row, column]), high)
                where = {"ha": "center", "va": "center", "color": colour}
                ax.text(column, row, _shown(text), parse_math=False, **where)
        ax.set_title(_shown(self.title, 200), parse_math=False)
        ax.figure.colorbar(image, ax=ax, label=self.value_name)
        return ax

    @property
    def limits(self) -> tuple[float, float]:
        """The numbers that the ends of the colours stand for: 0, or as far below it as above."""
        finite = self.values[self.values.isfinite()]
        if not len(finite):
            return 0.0, 1.0
        high = float(finite.abs().max()) or 1.0
        return (-high if float(finite.min()) < 0 else 0.0), high

    def _cell(self, row: int, column: int, low: float, high: float) -> str:
        value = float(self.values[row, column])
        text = f"{value:.3g}" if self.texts is None else self.texts[row][column]
        hover = f"{self.value_name} {value:.4g}"
        if self.hovers is not None:
            hover = f"{hover}; {self.hovers[row][column]}"
        back, front = _colours(value, high)
        style = f"background:{back};color:{front};padding:2px 4px"
        return f"<td style='{style}' title='{_text(hover, 400)}'>{_text(text)}</td>"


def _colours(value: float, high: float) -> tuple[str, str]:
    """Return the colours of a cell and of its text, which can be read on it."""
    if not math.isfinite(value):
        return "#ffffff", "#000000"
    share = min(1.0, abs(value) / high)
    hue = _BLUE if value >= 0 else _ORANGE
    mixed = [round(255 + share * (part - 255)) for part in hue]
    light = (0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2]) / 255
    return "#{:02x}{:02x}{:02x}".format(*mixed), "#000000" if light > 0.5 else "#ffffff"


def _shown(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return text on one line, with nothing in it that is not seen, cut where it is long."""
    cut = text[:longest].translate(_MARKS)
    line = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )
    return f"{line}…" if len(text) > longest else line


def _text(text: str, longest: int = LONGEST_TEXT) -> str:
    return html.escape(_shown(text, longest))
