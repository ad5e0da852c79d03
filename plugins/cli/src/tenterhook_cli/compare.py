"""`tenterhook runs compare`: two runs, row by row."""

import json

import attrs
import click

from tenterhook_cli.options import GroupedCommand, as_json_option
from tenterhook_cli.terminal import echo
from tenterhook_store import find_run


@click.command(cls=GroupedCommand)
@click.argument("a")
@click.argument("b")
@as_json_option
def compare(a: str, b: str, as_json: bool) -> int:
    """Compare two runs, each written STORE/runs/RUN, row by row.

    Rows of the same token of the same document are compared, and for each layer it says how far
    apart they are: cosine, relative error, units in the last place. What is known to make runs
    differ is named. Exits with 0 where they are alike, rounding and missing units aside, and with 1
    where they differ.
    """
    from tenterhook_store import compare as compare_runs

    runs = [store.run(run_id) for store, run_id in (find_run(a), find_run(b))]
    found = compare_runs(*runs)
    if as_json:
        click.echo(json.dumps({"alike": found.is_alike, **attrs.asdict(found)}, indent=2))
    else:
        echo(*str(found).splitlines())
    return int(not found.is_alike)
