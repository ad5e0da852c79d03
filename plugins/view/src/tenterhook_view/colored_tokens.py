"""The part `tokens`: text whose tokens are coloured by a number, and the scale beside it."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import attrs

from tenterhook_store import Run
from tenterhook_store.progress import showing
from tenterhook_view.errors import WrongShape
from tenterhook_view.markup import line, number
from tenterhook_view.parts import Part, Series
from tenterhook_view.quantities import (
    MOST_NUMBERS,
    Encodes,
    Quantity,
    as_vector,
    fitting,
    layers_of,
    quantity_named,
)
from tenterhook_view.quantities import (
    direction as direction_of,
)
from tenterhook_view.quantities import (
    latents as latents_of,
)
from tenterhook_view.run_tokens import MOST_TOKENS, RunTokens, run_tokens
from tenterhook_view.surprise import load_model_of, surprise_of
from tenterhook_view.token_texts import lines_of

PREVIEW = 800
"""Tokens that a notebook is shown of a long text."""


def tokens(
    what: Run | Sequence[str],
    values: Any = None,
    *,
    layer: str | int | Sequence[str | int] | None = None,
    by: str = "norm",
    direction: Any = None,
    sae: Encodes | None = None,
    latents: Sequence[int] | None = None,
    documents: Sequence[int] | None = None,
    most: int = MOST_TOKENS,
    tokenizer: Any = None,
    title: str | None = None,
) -> Part:
    """Return a part that shows tokens, coloured by a number for each.

    Of texts, `values` are the numbers `[n]`, or a mapping of names to them; those with negative
    ones among them are coloured from blue to orange, with 0 in the middle.

    Of a run, the first `most` tokens of it, or of `documents`, are shown, coloured by `norm` or
    `by="feature:17"` of each layer, or of `layer`, or `by="surprise"`, for which the run's model is
    loaded and run; by the dot product with `direction` `[features]`
    beside; and by latents of `sae` at the first layer that has its width: `latents`, else the
    eight that are most active. Rows are read in blocks of 16 MB. `tokenizer` has `decode(ids)`;
    without one that of the run's model is loaded.

    Raises `WrongShape`, `UnknownQuantity`, `NoSuchDocument`, `NothingToShow`, and `NotCaptured`.
    """
    if isinstance(what, Run):
        chosen, series = series_of_run(
            what,
            layer=layer,
            by=by,
            direction=direction,
            sae=sae,
            latents=latents,
            documents=documents,
            most=most,
            tokenizer=tokenizer,
        )
        return of_run(chosen, series, title=title)
    texts = lines_of(what)
    named = values if isinstance(values, Mapping) else {"value": values}
    found = []
    for name, numbers in named.items():
        vector = as_vector(numbers)
        if len(vector) != len(texts):
            raise WrongShape(str(name), vector.shape, f"({len(texts)},), a number for each token")
        is_signed = bool((vector < 0).any())
        found.append(Series(name=str(name), values=vector, is_signed=is_signed))
    places = [f"token {at}" for at in range(len(texts))]
    return _part(title or "Tokens", [("", range(len(texts)))], texts, found, places, "")


def series_of_run(
    run: Run,
    *,
    layer: str | int | Sequence[str | int] | None = None,
    by: str = "norm",
    direction: Any = None,
    sae: Encodes | None = None,
    latents: Sequence[int] | None = None,
    documents: Sequence[int] | None = None,
    most: int = MOST_TOKENS,
    tokenizer: Any = None,
    loaded: Any = None,
) -> tuple[RunTokens, list[Series]]:
    """Return the tokens of a run that `tokens` shows, and what they are coloured by, best first.

    `loaded` is the run's model, where somebody has it.
    """
    layers = layers_of(run, layer)
    model = (loaded or load_model_of(run)) if by == "surprise" else None
    tokenizer = getattr(loaded or model, "tokenizer", None) if tokenizer is None else tokenizer
    quantities = [quantity_named("norm" if model is not None else by)]
    if direction is not None:
        given = direction if isinstance(direction, Quantity) else direction_of(as_vector(direction))
        quantities.insert(0, given)
    wanted = [(each, fitting(run, layers, each)) for each in quantities]
    numbers = sum(len(places) for _, places in wanted)
    chosen = run_tokens(
        run,
        documents=documents,
        most=max(1, min(most, MOST_NUMBERS // max(numbers, 1))),
        tokenizer=tokenizer,
    )
    steps = numbers + (model is not None) + (0 if sae is None else 1 if latents else 2)
    with showing(f"Reading run {run.id}", steps * len(chosen), "rows of layers") as work:
        counted = attrs.evolve(chosen, count=work)
        found: list[Series] = [] if model is None else [surprise_of(model, counted)]
        if sae is not None:
            width = Quantity(name="sae", of=lambda rows: rows[:, 0], width=sae.n_inputs)
            found += latents_of(sae, counted, fitting(run, layers, width)[0], latents)
        found += [each.series(counted, name) for each, names in wanted for name in names]
    return chosen, found


def of_run(chosen: RunTokens, series: Sequence[Series], *, title: str | None = None) -> Part:
    """Return the part that shows tokens of a run."""
    documents = [(f"Document {document}", places) for document, places in chosen.by_document()]
    places = [
        f"document {document}, token {position}"
        for document, position in zip(chosen.documents, chosen.positions, strict=True)
    ]
    name = title or f"Tokens of run {chosen.run.id}"
    return _part(name, documents, chosen.texts, series, places, chosen.note)


def _part(
    title: str,
    documents: Sequence[tuple[str, range]],
    texts: Sequence[str],
    series: Sequence[Series],
    places: Sequence[str],
    note: str,
) -> Part:
    first = series[0] if series else None
    levels = first.levels() if first is not None else ["s0"] * len(texts)
    articles = [_article(heading, at, texts, levels) for heading, at in documents]
    head = (_controls(series) if series else "") + (
        f'<p class="note">{line(note, 2000)}</p>' if note else ""
    )
    short = [
        _article(heading, range(at.start, min(at.stop, PREVIEW)), texts, levels)
        for heading, at in documents
        if at.start < PREVIEW
    ]
    more = f'<p class="note">The first {PREVIEW} of {len(texts):,} tokens.</p>'
    data = {"series": [each.as_data() for each in series], "places": list(places)}
    return Part(
        kind="tokens" if series else "plain",
        title=title,
        markup=head + "\n".join(articles),
        preview=head + more + "".join(short),
        data=data if series else {},
    )


def _article(heading: str, at: range, texts: Sequence[str], levels: Sequence[str]) -> str:
    spans = "".join(
        f"<span class={levels[place]}>{escape(texts[place])}</span>"
        + ("\n" if texts[place].endswith("↵") else "")
        for place in at
    )
    title = f"<h3>{line(heading)}</h3>" if heading else ""
    label = line(f"{heading or 'Text'}: arrow keys go from token to token")
    return f'{title}<p class="text" role="group" tabindex="0" aria-label="{label}">{spans}</p>'


def _controls(series: Sequence[Series]) -> str:
    first = series[0]
    return (
        '<div class="controls">'
        f"{select('Colour by', (each.name for each in series))}"
        f"{select('Layer', (each.layer for each in series))}"
        f"{legend(first)}</div>"
        '<p class="status" role="status" aria-live="polite"></p>'
    )


def select(label: str, values: Iterable[str]) -> str:
    """Return a labelled choice of some values, each once."""
    options = "".join(f"<option>{line(each, 100)}</option>" for each in dict.fromkeys(values))
    return f"<label>{line(label)} <select>{options}</select></label>"


def legend(series: Series) -> str:
    """Return the scale of a series: its colours between the numbers where they begin and end."""
    letters = [f"d{at}" for at in range(9)] if series.is_signed else [f"s{at}" for at in range(10)]
    boxes = "".join(f'<span class="{each}"></span>' for each in letters)
    return (
        f'<span class="legend"><output>{number(series.low)}</output> {boxes} '
        f"<output>{number(series.high)}</output></span>"
    )
