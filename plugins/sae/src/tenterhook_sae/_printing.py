"""What `tenterhook sae` prints: measures, tables of them, and how far trainings are."""

import contextlib
import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import click

from tenterhook.one_line import printable

if TYPE_CHECKING:
    from tenterhook_sae.grid import NamedProgressCallback
    from tenterhook_sae.progress import TrainingProgress


def rounded(evaluation: Any) -> dict[str, Any]:
    """Return measures as plain JSON values; those by layer where there are any."""
    import attrs

    found: dict[str, Any] = plain(attrs.asdict(evaluation))
    if not found.get("by_layer", True):
        del found["by_layer"]
    return found


def plain(value: Any) -> Any:
    """Return measures as plain JSON values, rounded; `None` for what is no number."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _flat(measures: dict[str, Any]) -> dict[str, Any]:
    """Return measures with those of each layer beside the others."""
    found = dict(measures)
    for layer, each in found.pop("by_layer", {}).items():
        found |= {f"{name} of {layer}": value for name, value in each.items()}
    return found


def print_measures(measures: dict[str, Any]) -> None:
    """Print a line for each measure."""
    for name, value in _flat(measures).items():
        click.echo(f"{printable(name.replace('_', ' ')):<30}{_shown(value):>14}")


def print_table(measured: dict[str, dict[str, Any]]) -> None:
    """Print a row for each name, a column for each measure."""
    flat = {name: _flat(each) for name, each in measured.items()}
    columns = list(dict.fromkeys(column for each in flat.values() for column in each))
    lines = [["", *(printable(each.replace("_", " ")) for each in columns)]]
    for name, each in flat.items():
        lines.append([printable(name), *(_shown(each.get(column)) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        _, *others = (word.rjust(width) for word, width in zip(line, widths, strict=True))
        click.echo("  ".join([line[0].ljust(widths[0]), *others]).rstrip())


@contextlib.contextmanager
def progress(names: "Collection[str]") -> "Iterator[NamedProgressCallback]":
    """Show a bar for each on stderr where it is a terminal, and lines where it is none."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tenterhook_store.progress import shown_elsewhere

    console = Console(stderr=True)
    several = len(names) > 1

    def line(name: str, progress: "TrainingProgress") -> str:
        return f"{name}: {_line_of(progress)}" if several else _line_of(progress)

    if not console.is_terminal:
        with shown_elsewhere():
            yield lambda name, progress: click.echo(line(name, progress), err=True)
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with shown_elsewhere(), Progress(*columns, console=console) as bars:
        tasks = {name: bars.add_task("") for name in names}

        def show(name: str, progress: "TrainingProgress") -> None:
            told = line(name, progress)
            bars.update(
                tasks[name], completed=progress.step, total=progress.steps, description=told
            )

        yield show


def _line_of(progress: "TrainingProgress") -> str:
    return (
        f"step {progress.step:,} of {progress.steps:,}, loss {progress.loss:.4f}, "
        f"explained variance {progress.explained_variance:.3f}, L0 {progress.l0:.1f}, "
        f"dead {progress.dead_share:.1%}, {progress.rows_per_second:,.0f} rows/s"
    )
