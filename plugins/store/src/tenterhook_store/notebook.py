"""What a notebook shows of stores, runs and what is in them: from their plans, nothing of rows.

Nothing here reads an array: what is shown is in the plan of a run and in the list of its units.
Stores, runs and plans import this, so that it names none of their classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tenterhook.errors import TenterhookError
from tenterhook.html import MOST, table, text
from tenterhook.one_line import error_line

OPENED = 20
"""Runs of a store that are looked into; of the others there is the name."""


def store_html(store: Any) -> str:
    """Return the runs of a store: how many rows, of which layers, whether complete."""
    names = store.runs()

    def rows() -> Iterator[tuple[object, ...]]:
        yield "run", "rows", "of", "layers"
        for at, name in enumerate(names):
            yield (name, *(_run_cells(store, name) if at < OPENED else ("", "", "")))

    head = f"<p>{text(f'{type(store).__name__} {store.location}: {len(names):,} runs')}</p>"
    return head + table(rows(), MOST - len(head.encode()))


def _run_cells(store: Any, name: str) -> tuple[object, ...]:
    try:
        run = store.run(name)
    except (TenterhookError, OSError) as error:  # the others are shown
        return "", "", error_line(error, 200)
    return f"{run.rows_committed:,}", f"{run.plan.rows:,}", _some(run.layers)


def _some(names: tuple[str, ...], most: int = 4) -> str:
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def run_html(run: Any) -> str:
    """Return what a run holds: rows, documents, and its layers with their width and dtype."""
    head = f"<p>{text(_line_of(run), 500)}</p>"
    return head + plan_table(run.plan, MOST - len(head.encode()))


def _line_of(run: Any) -> str:
    state = "complete" if run.is_complete else f"{run.rows_committed:,} of them committed"
    model: Any = run.plan.about.get("model")
    name = f", of {model.get('name')}" if isinstance(model, Mapping) else ""
    documents = f"{run.plan.documents:,} documents"
    return f"Run {run.id}: {run.plan.rows:,} rows of {documents}{name}, {state}"


def plan_html(plan: Any) -> str:
    """Return what a run of the plan holds when it is complete."""
    head = (
        f"<p>{plan.rows:,} rows of {plan.documents:,} documents, in {plan.unit_count:,} units of "
        f"{plan.rows_per_unit:,} rows</p>"
    )
    return head + plan_table(plan, MOST - len(head.encode()))


def plan_table(plan: Any, room: int) -> str:
    """Return the layers of a plan, and what it was made with."""
    layers = [("layer", "features", "dtype")]
    layers += [(each.name, f"{each.features:,}", each.dtype) for each in plan.layers]
    found = table(layers, room * 3 // 4)
    made = [(name, value) for name, value in plan.spec.items() if name != "layers"]
    return found + (table([("setting", "value"), *made], room // 4) if made else "")
