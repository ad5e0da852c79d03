"""Tokens of a run in a terminal: coloured where there is one, else a line for each."""

from typing import Any

import click

from tenterhook.one_line import printable
from tenterhook_store import Run
from tenterhook_view.colored_tokens import series_of_run
from tenterhook_view.markup import number

MOST_TOKENS = 1000
"""Tokens that are shown unless documents are named."""

_AMOUNTS = (230, 229, 223, 222, 221, 215, 214, 208, 202, 166)
"""Colours of the 256 that terminals have, from pale to dark orange; black is legible on all."""
_SIGNED = (75, 111, 153, 195, 231, 230, 223, 215, 208)


def print_tokens(run: Run, **settings: Any) -> None:
    """Print the tokens of documents, each coloured by the first of what `tokens` colours them by.

    Without a terminal, or with `NO_COLOR`, a line for each token: its document, place and number.
    """
    from rich.console import Console
    from rich.text import Text

    if settings.get("documents") is None:
        settings["most"] = min(settings.get("most", MOST_TOKENS), MOST_TOKENS)
    chosen, series = series_of_run(run, **settings)
    first = series[0]
    levels = first.levels()
    what = printable(f"{first.name} at {first.layer}" if first.layer else first.name)
    console = Console(soft_wrap=False, highlight=False, markup=False)
    if not console.is_terminal or console.no_color:
        click.echo(f"document\ttoken\t{what}\ttext")
        for at, value in enumerate(first.values.tolist()):
            place = f"{chosen.documents[at]}\t{chosen.positions[at]}"
            click.echo(f"{place}\t{value:.6g}\t{chosen.texts[at]}")
        return
    for document, places in chosen.by_document():
        console.print(Text(f"Document {document}", style="bold"))
        line = Text()
        for at in places:
            line.append(chosen.texts[at], style=_style(levels[at]))
            if chosen.texts[at].endswith("↵"):
                line.append("\n")
        console.print(line)
    letters = [
        f"{'d' if first.is_signed else 's'}{at}" for at in range(9 if first.is_signed else 10)
    ]
    scale = Text(f"{what}: {number(first.low)} ")
    for letter in letters:
        scale.append("  ", style=_style(letter))
    console.print(scale.append(f" {number(first.high)}"))
    if chosen.note:
        click.echo(chosen.note, err=True)


def _style(level: str) -> str:
    if level == "sx":
        return "reverse"
    colours = _SIGNED if level[0] == "d" else _AMOUNTS
    sign = " underline" if level in ("d0", "d1", "d2", "d3") else ""
    return f"color(16) on color({colours[int(level[1])]}){sign}"
