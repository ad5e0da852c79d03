"""The part `examples`: where a number is highest, each in its text, and how numbers are spread."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from tenterhook_view.errors import WrongShape
from tenterhook_view.markup import line, number
from tenterhook_view.parts import Part, Series
from tenterhook_view.quantities import as_vector
from tenterhook_view.run_tokens import RunTokens
from tenterhook_view.token_texts import lines_of

AROUND = 12
"""Tokens that are shown to either side of an example's."""

BARS = 30
"""Bars of a histogram."""


def examples(
    found: Iterable[Any], *, title: str = "Top examples", name: str = "value", most: int = 50
) -> Part:
    """Return a part that shows examples, best first, over a histogram of all their numbers.

    `found` are pairs of texts and numbers, `(tokens, values)` of one length, or objects with
    `tokens` and `scores`, as `tenterhook_sae.find_examples` returns them. Raises `WrongShape`.
    """
    read = []
    for each in found:
        given = (each.tokens, each.scores) if hasattr(each, "scores") else each
        texts, values = lines_of(given[0]), as_vector(given[1])
        if len(texts) != len(values):
            raise WrongShape(name, values.shape, f"({len(texts)},), a number for each token")
        if texts:
            read.append((texts, values))
    together = torch.cat([values for _, values in read]) if read else torch.zeros(0)
    series = Series(name=name, values=together, is_signed=bool((together < 0).any()))
    levels = series.levels()
    lines, start = [], 0
    for texts, values in read:
        at = int(values.nan_to_num(-torch.inf).argmax())
        lines.append(
            (float(values[at]), _line(texts, levels[start : start + len(texts)], at, values))
        )
        start += len(texts)
    lines.sort(key=lambda line: -line[0])
    return _part(title, [line for _, line in lines[:most]], together, name)


def of_series(chosen: RunTokens, series: Series, *, most: int = 20) -> Part:
    """Return the part for tokens of a run: its highest numbers, one a document at most."""
    values, levels = series.values.nan_to_num(-torch.inf), series.levels()
    best = []
    for document, at in chosen.by_document():
        place = at.start + int(values[at.start : at.stop].argmax())
        best.append((float(series.values[place]), document, place, at))
    best.sort(key=lambda each: -each[0])
    lines = [
        _line(
            chosen.texts[at.start : at.stop],
            levels[at.start : at.stop],
            place - at.start,
            series.values[at.start : at.stop],
            where=f"document {document}, token {chosen.positions[place]}",
        )
        for _, document, place, at in best[:most]
    ]
    what = f"{series.name} at {series.layer}" if series.layer else series.name
    return _part(f"Highest {what}", lines, series.values, what)


def _line(
    texts: Sequence[str], levels: Sequence[str], at: int, values: Tensor, *, where: str = ""
) -> str:
    start, stop = max(0, at - AROUND), min(len(texts), at + AROUND + 1)
    spans = [
        f"<span class={levels[place]}>{escape(texts[place])}</span>" for place in range(start, stop)
    ]
    spans[at - start] = f"<strong>{spans[at - start]}</strong>"
    text = f"{'…' if start else ''}{''.join(spans)}{'…' if stop < len(texts) else ''}"
    place = f' <span class="note">{line(where)}</span>' if where else ""
    return f'<li>{number(float(values[at]))}{place}<p class="text">{text}</p></li>'


def _part(title: str, lines: Sequence[str], values: Tensor, name: str) -> Part:
    listed = f"<ol>{''.join(lines)}</ol>" if lines else '<p class="note">None.</p>'
    return Part(kind="plain", title=title, markup=f"{histogram(values, name)}{listed}")


def histogram(values: Tensor, name: str) -> str:
    """Return a drawing of how numbers are spread, with a sentence that says the same."""
    finite = values[values.isfinite()].float()
    if not len(finite):
        return '<p class="note">No finite numbers.</p>'
    low, high = float(finite.min()), float(finite.max())
    counts = torch.histc(finite, BARS, low, high if high > low else low + 1)
    heights = (counts / counts.max() * 100).tolist()
    bars = "".join(
        f'<rect x="{at * 20}" y="{110 - height:.1f}" width="18" height="{height:.1f}"></rect>'
        for at, height in enumerate(heights)
        if height
    )
    middle = float(finite.median())
    says = (
        f"{len(finite):,} numbers ({name}) from {number(low)} to {number(high)}, "
        f"half of them up to {number(middle)}."
    )
    width = 20 * BARS
    return (
        f'<figure><svg viewBox="0 0 {width} 130" width="{width}" role="img" '
        f'aria-label="{line(says)}">{bars}<line x1="0" y1="110" x2="{width}" y2="110"></line>'
        f'<text x="0" y="126">{number(low)}</text>'
        f'<text x="{width}" y="126" text-anchor="end">{number(high)}</text></svg>'
        f"<figcaption>{line(says)}</figcaption></figure>"
    )
