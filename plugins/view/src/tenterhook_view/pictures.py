"""Pictures of a run, as SVG or PNG, drawn by matplotlib where it is installed.

Nothing here touches the state that matplotlib keeps for a process: a figure is made by itself, so
that it does not matter what else the process draws, nor in which thread.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tenterhook.one_line import printable
from tenterhook_store import Run
from tenterhook_view.colored_tokens import series_of_run
from tenterhook_view.errors import UnknownFormat, UnknownQuantity
from tenterhook_view.parts import Series

FORMATS = (".svg", ".png", ".pdf")
PICTURES = ("layers", "histogram", "tokens")
"""What can be drawn: quantiles by layer, how numbers are spread, layers by the first tokens."""

OF_TOKENS = 40
"""Tokens that a picture has room for."""


def save_picture(
    run: Run, path: str | os.PathLike[str], *, what: str = "layers", **settings: Any
) -> Path:
    """Draw a run to a file whose ending says the format; return its path.

    `settings` are those of `tokens`. Raises `UnknownFormat` and `UnknownQuantity` (`ValueError`),
    and `ImportError` without matplotlib, before anything is read.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise UnknownFormat(str(path), FORMATS)
    if what not in PICTURES:
        raise UnknownQuantity(what, PICTURES)
    try:
        made = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ImportError(
            "Pictures are drawn by matplotlib: pip install 'tenterhook-view[plot]'."
        ) from error
    chosen, series = series_of_run(run, **settings)
    alike = [each for each in series if each.name == series[0].name]
    figure = made(figsize=(8, 2 + 0.3 * len(alike)), layout="constrained")
    axes = figure.add_subplot()
    _write(axes.set_title, f"{alike[0].name}, run {run.id}")
    if what == "layers":
        _layers(axes, alike)
    elif what == "histogram":
        _histogram(axes, alike)
    else:
        _, places = next(chosen.by_document())
        some = places[:OF_TOKENS]
        _grid(figure, axes, alike, [chosen.texts[at] for at in some], some)
    figure.savefig(target, metadata={"Date": None} if target.suffix.lower() == ".svg" else None)
    return target


def _write(function: Any, *words: Any, **settings: Any) -> None:
    """Have text written as it is: a dollar in it begins no formula."""
    texts = function(*(_plain(each) for each in words), **settings)
    for text in texts if isinstance(texts, list) else [texts]:
        text.set_parse_math(False)


def _plain(words: Any) -> Any:
    return printable(words, 60) if isinstance(words, str) else words


def _layers(axes: Any, series: Sequence[Series]) -> None:
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    for at, each in enumerate(series):
        finite = each.values[each.values.isfinite()]
        found = torch.quantile(finite, shares).tolist() if len(finite) else [0.0] * 5
        axes.plot([found[0], found[4]], [at, at], color="0.4", linewidth=1)
        axes.barh(at, found[3] - found[1], left=found[1], height=0.5, color="#e3800f")
        axes.plot([found[2], found[2]], [at - 0.25, at + 0.25], color="black", linewidth=2)
    axes.set_yticks(range(len(series)))
    _write(axes.set_yticklabels, [printable(each.layer, 60) for each in series])
    axes.invert_yaxis()
    _write(axes.set_xlabel, f"{series[0].name}: 5, 25, 50, 75 and 95 %")


def _histogram(axes: Any, series: Sequence[Series]) -> None:
    styles = ("-", "--", ":", "-.")
    for at, each in enumerate(series):
        finite = each.values[each.values.isfinite()]
        axes.hist(
            finite.tolist(),
            bins=50,
            histtype="step",
            linestyle=styles[at % 4],
            label=printable(each.layer or each.name, 60),
        )
    _write(axes.set_xlabel, series[0].name)
    axes.set_ylabel("tokens")
    for text in axes.legend().get_texts():
        text.set_parse_math(False)


def _grid(
    figure: Any, axes: Any, series: Sequence[Series], texts: Sequence[str], some: range
) -> None:
    values = [each.values[some.start : some.stop].tolist() for each in series]
    first = series[0]
    colours = "PuOr_r" if first.is_signed else "YlOrBr"
    image = axes.imshow(values, aspect="auto", cmap=colours, vmin=first.low, vmax=first.high)
    figure.colorbar(image)
    axes.set_xticks(range(len(texts)))
    _write(axes.set_xticklabels, [printable(each, 20) for each in texts], rotation=90)
    axes.set_yticks(range(len(series)))
    _write(axes.set_yticklabels, [printable(each.layer, 60) for each in series])
