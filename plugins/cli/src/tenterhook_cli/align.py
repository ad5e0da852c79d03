"""`tenterhook runs align`: which rows of two runs are of the same characters, kept in a store."""

import json

import attrs
import click

from tenterhook_cli.options import GroupedCommand, as_json_option
from tenterhook_cli.terminal import echo
from tenterhook_store import find_run, open_store


@click.command(cls=GroupedCommand)
@click.argument("a")
@click.argument("b")
@click.option("--name", help="What it is kept as; RUN_A--RUN_B by default.")
@click.option("--to", metavar="STORE", help="The store that keeps it; that of A by default.")
@click.option("--overwrite", is_flag=True, help="Replace an alignment that is there.")
@click.option(
    "--verify",
    is_flag=True,
    help="Pair the rows again, compare with what is kept, and change nothing.",
)
@as_json_option
def align(
    a: str,
    b: str,
    *,
    name: str | None,
    to: str | None,
    overwrite: bool,
    verify: bool,
    as_json: bool,
) -> int:
    """Pair the rows of two runs, each written STORE/runs/RUN, that are of the same characters.

    Whatever their models, checkpoints and tokenizers: rows whose tokens stand for the same
    characters of the same document are one pair. Documents that are other texts are named and left
    out. What is found is kept in the store as STORE/alignments/NAME, which `tenterhook sae train`
    takes in place of a run. With --verify it exits with 1 where what is kept is not what the runs
    say.
    """
    from tenterhook_store import align as align_runs
    from tenterhook_store import open_alignment

    (store, run_a), (store_b, run_b) = find_run(a), find_run(b)
    runs = store.run(run_a), store_b.run(run_b)
    into = store if to is None else open_store(to, create=not verify)
    if verify:
        kept = open_alignment(into, name or f"{run_a}--{run_b}", runs)
        problems = kept.verify()
        if as_json:
            shown = [attrs.asdict(each) for each in problems]
            click.echo(json.dumps({**kept.summary(), "problems": shown}, indent=2))
        else:
            echo(*str(kept).splitlines(), *map(str, problems))
            echo("as it was made" if not problems else "not as it was made")
        return int(bool(problems))
    found = align_runs(*runs).save(into, name, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(found.summary(), indent=2))
    else:
        echo(*str(found).splitlines(), f"kept as {into.location}/alignments/{found.name}")
    return 0
