"""The parts `grid` and `lens`: a cell for each layer and token, with what stands in it to read."""

from collections.abc import Sequence
from html import escape
from typing import Any

import torch

from tenterhook.one_line import printable
from tenterhook_view.errors import WrongShape
from tenterhook_view.markup import line, number
from tenterhook_view.parts import Part, Series
from tenterhook_view.token_texts import lines_of, visible

MOST_CELLS = 500
"""Tokens of which a grid has cells."""

NAMED = 5
"""Tokens that a cell of the logit lens names."""


def grid(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    cells: Sequence[Sequence[str]] | None = None,
    says: Sequence[Sequence[str]] | None = None,
    name: str = "value",
    title: str = "Grid",
) -> Part:
    """Return a part with a table of numbers `[rows, columns]`, coloured.

    `rows` are layers, as a rule, and `columns` tokens, of which the first 500 are shown. `cells`
    are texts that stand in the cells in place of the numbers, and `says` what is read of each.
    Raises `WrongShape`.
    """
    numbers = torch.as_tensor(values).detach().float().cpu()
    if tuple(numbers.shape) != (len(rows), len(columns)):
        raise WrongShape(name, numbers.shape, f"({len(rows)}, {len(columns)}), rows by columns")
    for texts, what in ((cells, "cells"), (says, "says")):
        if texts is not None and [len(each) for each in texts] != [len(columns)] * len(rows):
            shape = (len(texts), *sorted({len(each) for each in texts}))
            raise WrongShape(what, shape, f"({len(rows)}, {len(columns)}), rows by columns")
    shown = min(len(columns), MOST_CELLS)
    numbers = numbers[:, :shown].contiguous()
    heads = lines_of(columns[:shown])
    series = Series(name=name, values=numbers.flatten(), is_signed=bool((numbers < 0).any()))
    levels, flat = series.levels(), numbers.flatten().tolist()
    what = printable(name, 100)
    lines, spoken = [], []
    for at, row in enumerate(map(printable, rows)):
        found = []
        for column in range(shown):
            value = flat[at * shown + column]
            text = number(value) if cells is None else visible(str(cells[at][column]), 40)
            found.append(f"<td class={levels[at * shown + column]}>{escape(text)}</td>")
            said = f"{what} {number(value)}" if says is None else visible(says[at][column], 500)
            spoken.append(f"{row}, “{heads[column]}” (token {column}): {said}")
        lines.append(f'<tr><th scope="row">{line(row)}</th>{"".join(found)}</tr>')
    tops = "".join(f'<th scope="col">{escape(each)}</th>' for each in ["", *heads])
    left = len(columns) - shown
    note = f'<p class="note">{left:,} tokens more are not shown.</p>' if left else ""
    markup = (
        f'{note}<p class="status" role="status" aria-live="polite"></p>'
        '<div class="wide"><table tabindex="0" aria-label="Layers by tokens: arrow keys go from '
        f'cell to cell"><thead><tr>{tops}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
    return Part(kind="cells", title=title, markup=markup, data={"says": spoken})


def lens(
    result: Any = None,
    *,
    input_tokens: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    tokens: Sequence[Sequence[Sequence[str]]] | None = None,
    probabilities: Any = None,
    title: str = "Logit lens",
) -> Part:
    """Return a part with what each layer would say next at each token, coloured by how surely.

    `input_tokens` are those that were read, `tokens` the likeliest next ones, by layer, position
    and rank, and `probabilities` theirs, `[layer, position, rank]`. `result` is an object with
    members of these names, as `tenterhook_analysis.logit_lens` returns it, for what is not given.
    The last layer is on top; the first 500 tokens are shown. Raises `WrongShape`.
    """
    texts = input_tokens if input_tokens is not None else result.input_tokens
    names = layers if layers is not None else result.layers
    best = tokens if tokens is not None else result.tokens
    given = probabilities if probabilities is not None else result.probabilities
    chances = torch.as_tensor(given).detach().float().cpu()
    if chances.ndim != 3 or tuple(chances.shape[:2]) != (len(names), len(texts)):
        raise WrongShape("probabilities", chances.shape, f"({len(names)}, {len(texts)}, rank)")
    cells = [[str(column[0]) if len(column) else "" for column in row] for row in best]
    says = [
        [
            ", ".join(
                f"“{visible(str(text))}” {chance:.1%}"
                for text, chance in zip(column, shares, strict=False)
            )
            for column, shares in zip(row, of_row, strict=False)
        ]
        for row, of_row in zip(best, chances[..., :NAMED].tolist(), strict=False)
    ]
    return grid(
        chances[..., 0].flip(0),
        [str(each) for each in reversed(names)],
        texts,
        cells=cells[::-1],
        says=says[::-1],
        name="probability",
        title=title,
    )
