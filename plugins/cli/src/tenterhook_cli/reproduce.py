"""`tenterhook runs reproduce`: units of a run, computed again."""

import json
from typing import Any

import attrs
import click

from tenterhook_cli.options import GroupedCommand, as_json_option, count, of_run
from tenterhook_cli.progress import progress_bar, stoppable
from tenterhook_cli.terminal import echo
from tenterhook_cli.work import places, recipe_for
from tenterhook_store import find_run


@click.command(cls=GroupedCommand)
@of_run
@count("--units", "Units that are computed again, spread over the run.", default=3, group="Run")
@places
@as_json_option
@stoppable()
def reproduce(store: str, run: str | None, *, units: int, as_json: bool, **names: Any) -> int:
    """Compute units of RUN in STORE again, and compare them with what it holds.

    Model and data are those that the run names. For each layer it says whether the rows are equal,
    close (rounding explains the difference) or different, and what is not as it was: weights,
    tokenizer, template, versions. Writes nothing. Exits with 1 where a layer is different.
    """
    from tenterhook_capture import reproduce as reproduce_run

    opened, run_id = find_run(store, run)
    recipe = recipe_for(opened.run(run_id), **names)
    with progress_bar() as show:
        found = reproduce_run(opened, run_id, units=units, recipe=recipe, progress=show)
    if as_json:
        facts = attrs.asdict(found)
        click.echo(json.dumps({"verdict": found.verdict, **facts}, indent=2))
    else:
        echo(*str(found).splitlines())
    return int(found.verdict == "different")
