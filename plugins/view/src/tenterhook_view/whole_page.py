"""A page: parts in one file of HTML that holds its style and its script, and fetches nothing.

A policy in the page lets no other script run than ours, whatever stands in the texts, and has
nothing loaded from anywhere. Escaping is what makes texts inert; the policy is there for the day
when somebody forgets.
"""

import base64
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from tenterhook.one_line import printable
from tenterhook_store import Run
from tenterhook_view import of_model
from tenterhook_view.colored_tokens import of_run, series_of_run
from tenterhook_view.errors import NotShown, SeveralLayers
from tenterhook_view.layer_numbers import by_layer
from tenterhook_view.markup import line
from tenterhook_view.notebook import asset, in_notebook
from tenterhook_view.parts import Part
from tenterhook_view.quantities import as_vector, layers_of
from tenterhook_view.surprise import load_model_of
from tenterhook_view.token_grid import grid
from tenterhook_view.top_examples import of_series

OF_GRID = 100
"""Tokens of the grid on a page of a run."""


@attrs.frozen
class Page:
    """Parts under a title; `save(path)` writes the file, `str(page)` is what stands in it."""

    title: str
    parts: Sequence[Part]

    def pieces(self) -> Iterator[str]:
        """Yield the page in pieces, a part at a time."""
        script, style = asset("page.js"), asset("page.css")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        title = line(self.title)
        yield (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
            f"<main>\n<h1>{title}</h1>\n"
        )
        for at, part in enumerate(self.parts, 1):
            yield part.section(at)
        yield f"</main>\n<script>{script}</script>\n</body>\n</html>\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, whole or not at all; return its path."""
        target = Path(path)
        beside = target.with_name(f".{target.name[:50]}.{os.getpid()}-{threading.get_ident()}")
        try:
            with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(self.pieces())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        return target

    def __str__(self) -> str:
        return "".join(self.pieces())

    def _repr_html_(self) -> str:
        return in_notebook(*self.parts)

    def __repr__(self) -> str:
        return f"Page({printable(self.title)!r}, {len(self.parts)} parts)"


def as_part(given: Any) -> Part:
    """Return a part as it is, the grid of an analysis, and of others what a notebook shows.

    Raises `NotShown`, a `TypeError`, for one that shows nothing.
    """
    if isinstance(given, Part):
        return given
    if not isinstance(given, type) and callable(getattr(given, "grid", None)):
        found = given.grid()
        return grid(
            found.values,
            found.rows,
            found.columns,
            cells=found.texts,
            says=found.hovers,
            name=found.value_name,
            title=found.title,
        )
    markup = getattr(given, "_repr_html_", None)
    if markup is None or isinstance(given, type):
        raise NotShown(given)
    return Part(kind="plain", title=type(given).__name__, markup=str(markup()))


def page(
    *shown: Any,
    title: str | None = None,
    out: str | os.PathLike[str] | None = None,
    **of_runs: Any,
) -> Page:
    """Return a page of parts, runs, results of analyses, and of what else a notebook shows.

    Of a run the page has its tokens, the highest examples of what colours them, a grid of layers by
    the first tokens, and the numbers of each layer; `of_runs` are what `tokens` takes: `layer`,
    `by`, `direction`, `sae`, `latents`, `documents`, `most`, `tokenizer`. For others its model is
    loaded: `lens=True` for the logit lens of the first document, `attention=True` for its attention
    a head at a time, and `steer=vector` for how a text goes on without `scale` times the vector at
    `layer`, and with it; `prompt` is what it begins with. With `out` the page is written to that
    file. Raises `NotShown` (a `TypeError`), what `tokens` raises, and `NothingToShow`.
    """
    parts: list[Part] = []
    for each in shown:
        parts += _of_run(each, **of_runs) if isinstance(each, Run) else [as_part(each)]
    runs = [f"Run {each.id}" for each in shown if isinstance(each, Run)]
    made = Page(title or ", ".join(runs) or "Activations", tuple(parts))
    if out is not None:
        made.save(out)
    return made


def _of_run(
    run: Run,
    *,
    lens: bool = False,
    attention: bool = False,
    steer: Any = None,
    scale: float = 4.0,
    prompt: str | None = None,
    **settings: Any,
) -> list[Part]:
    layers = layers_of(run, settings.get("layer"))
    if steer is not None and len(layers) > 1:
        raise SeveralLayers(layers)
    model = load_model_of(run) if lens or attention or steer is not None else None
    chosen, series = series_of_run(run, loaded=model, **settings)
    first = series[0]
    alike = [each for each in series if each.name == first.name]
    _, places = next(chosen.by_document())
    some = places[:OF_GRID]
    whole = grid(
        torch.stack([each.values[some.start : some.stop] for each in alike]),
        [each.layer for each in alike],
        [chosen.texts[at] for at in some],
        name=first.name,
        title=f"{first.name} by layer and token, document {chosen.documents[0]}",
    )
    more = []
    if lens:
        more.append(of_model.lens_of_run(model, chosen, layers))
    if attention:
        more.append(of_model.attention_of_run(model, chosen))
    if steer is not None:
        vector = as_vector(steer)
        more.append(
            of_model.steered_text(model, chosen, layers[0], vector, scale=scale, prompt=prompt)
        )
    return [of_run(chosen, series), of_series(chosen, first), whole, by_layer(series), *more]
