"""`tenterhook runs`: what a store holds, and what is done about it."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs
import click

from tenterhook.errors import TenterhookError
from tenterhook_cli.align import align
from tenterhook_cli.amounts import how_long, many, progress_of, size
from tenterhook_cli.compare import compare
from tenterhook_cli.contents import batches_of, layers_of, reduced
from tenterhook_cli.engine_options import EngineCommand
from tenterhook_cli.options import GroupedCommand, as_json_option, of_run
from tenterhook_cli.progress import stoppable
from tenterhook_cli.reproduce import reproduce
from tenterhook_cli.terminal import echo, escaped
from tenterhook_cli.watching import watch
from tenterhook_cli.work import do_part, elsewhere
from tenterhook_store import (
    DamagedStore,
    UnknownRun,
    find_run,
    find_runs,
    natural_order,
    open_store,
)

if TYPE_CHECKING:
    from tenterhook_capture import OpenSession, RunStatus
    from tenterhook_store import Problem, Run, Store

T = TypeVar("T")


class _Runs(click.Group):
    command_class = GroupedCommand


@click.group(cls=_Runs)
def runs() -> None:
    """Show, check, compare, align, finish, export and delete the runs of a store."""


runs.add_command(align)
runs.add_command(compare)
runs.add_command(reproduce)


@runs.command("list")
@click.argument("store")
@as_json_option
def list_runs(store: str, as_json: bool) -> int:
    """List the runs of STORE."""
    opened = open_store(store, create=False)
    looked = _Looked(opened, natural_order(opened.runs()))
    rows = [row for _, row in looked.each(lambda name: _row(opened.run(name)))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return looked.code
    cells = [
        (
            row["run"],
            f"{row['rows']:,} rows",
            row["state"],
            ", ".join(row["layers"]) + _without_rows(row),
        )
        for row in rows
    ]
    widths = [max((len(cell[column]) for cell in cells), default=0) for column in range(3)]
    for cell in cells:
        start = "  ".join(f"{text:<{width}}" for text, width in zip(cell, widths, strict=False))
        echo(f"{start}  {cell[3]}")
    if not looked.names:
        echo("This store holds no runs.", err=True)
    return looked.code


@runs.command()
@of_run
@as_json_option
def show(store: str, run: str | None, as_json: bool) -> None:
    """Show what RUN in STORE holds, and what made it.

    RUN may be left out where the store holds one run; STORE/runs/RUN names it too.
    """
    opened, run_id = find_run(store, run)
    found = opened.run(run_id)
    if as_json:
        click.echo(json.dumps(found.metadata, indent=2))
        return
    for name, value in _facts(found):
        echo(f"{name:<26}{value}".rstrip())


@runs.command()
@of_run
@as_json_option
@click.option(
    "--watch", "is_watched", is_flag=True, help="Look again and again, until all is complete."
)
@click.option(
    "--every",
    "seconds",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="Time between two looks, with --watch.",
)
def status(store: str, run: str | None, *, as_json: bool, is_watched: bool, seconds: float) -> int:
    """Say how far RUN in STORE is, or each of its runs: units, rows, rate, what failed.

    The rows are those that can be read, whichever process computed them. With --watch and --json
    each look that has something new is a line of JSON.
    """
    from tenterhook_capture import run_status

    code = 0

    def look() -> "list[RunStatus]":
        nonlocal code
        opened, names = find_runs(store, run)
        looked = _Looked(opened, names)
        found = [each for _, each in looked.each(lambda name: run_status(opened.run(name)))]
        code = looked.code
        return found

    def look_again() -> tuple[list[str], bool]:
        found = look()
        is_over = bool(code) or all(each.state == "complete" for each in found)
        if as_json:
            return [json.dumps([attrs.asdict(each) for each in found])], is_over
        return [line for each in found for line in _status_lines(each)], is_over

    if is_watched:
        watch(look_again, seconds)
    elif as_json:
        click.echo(json.dumps([attrs.asdict(each) for each in look()], indent=2))
    else:
        for each in look():
            echo(*_status_lines(each))
    return code


@runs.command()
@of_run
@as_json_option
def verify(store: str, run: str | None, as_json: bool) -> int:
    """Read every checksum of RUN in STORE, or of all its runs, and compare it with its plan.

    Exits with 1 where anything is not as it was written, and names it. Units that are missing are
    said, and are no damage.
    """
    opened, names = find_runs(store, run)
    looked = _Looked(opened, names)
    rows = []
    for name, problems in looked.each(opened.verify_run):
        rows.append({"run": name, "problems": [attrs.asdict(each) for each in problems]})
        if not as_json:
            echo(f"{name}: {_units(opened, name)}, {many(len(problems), 'problem')}")
            for each in problems:
                echo(f"  {each}")
            _say_how_to_mend(opened, name, problems)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    return int(looked.code or any(row["problems"] for row in rows))


@runs.command()
@of_run
def finalize(store: str, run: str | None) -> None:
    """Tidy up RUN in STORE once all its units are there; more than once does no harm.

    Whoever does the last unit does this too. Exits with 1 where units are missing.
    """
    opened, run_id = find_run(store, run)
    opened.write_run(run_id, opened.run(run_id).plan).finish()
    echo(f"Run {run_id}: {progress_of(opened.run(run_id))}.")


@runs.command(cls=EngineCommand)
@of_run
@elsewhere
@stoppable()
def resume(store: str, run: str | None, **settings: Any) -> None:
    """Do all that is missing of RUN in STORE, from what the run itself holds."""
    do_part(*find_run(store, run), None, **settings)


@runs.command()
@of_run
@click.option(
    "--format",
    "kind",
    required=True,
    help="npy: a file for each array; safetensors: files of some rows; parquet, csv: a table; "
    "datasets: Hugging Face's; webdataset: tar files of documents; or the name of an exporter of "
    "another plugin (`tenterhook plugins list`).",
)
@click.option("--to", "folder", required=True, help="The folder to write; made by this.")
@click.option(
    "--layer", "layers", multiple=True, help="A layer of the run; all by default. Repeat."
)
@click.option(
    "--missing",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    help="Of a run that lacks units, export the rows before the first of them (stop, the default), "
    "or all that are there (skip).",
)
@click.option("--overwrite", is_flag=True, help="Replace an export that is there.")
def export(
    store: str,
    run: str | None,
    *,
    kind: str,
    folder: str,
    layers: tuple[str, ...],
    missing: Literal["stop", "skip"],
    overwrite: bool,
) -> None:
    """Write the rows of RUN in STORE as other people's files.

    The run.json beside them says which rows they are, and which units are missing.
    """
    from tenterhook_store import find_exporter

    write = find_exporter(kind)
    opened, run_id = find_run(store, run)
    found = opened.run(run_id)
    rows = found.rows_committed if missing == "skip" else len(found)
    if not found.is_complete:
        echo(f"warning: {progress_of(found)}; {rows:,} rows are exported.", err=True)
    if left_out := found.rows_committed - rows:
        first = found.ranges.first // found.plan.rows_per_unit
        gone = "dropped" if first in found.dropped else "missing"
        what = f"{many(left_out, 'row')} after unit {first}, which is {gone}"
        echo(f"warning: {what}: left out. Export them too by --missing skip.", err=True)
    write(found, folder, layers=layers or None, missing=missing, overwrite=overwrite)
    written = f"{many(rows, 'row')} of run {run_id} to {folder}"
    if found.layers:
        echo(f"Wrote {written}.")
    else:
        echo(
            f"Wrote token, document and position of {written}. The run keeps statistics of its "
            "layers and not their rows: run.reduced reads them."
        )


@runs.command()
@of_run
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(store: str, run: str | None, yes: bool) -> None:
    """Delete RUN in STORE, for good; asks first."""
    opened, run_id = find_run(store, run)
    what, how_large = f"run {run_id} of {opened.location}", ""
    try:
        found = opened.run(run_id)
    except DamagedStore:
        what += ", which cannot be opened"
    else:
        rows = found.rows_committed
        what += f", {many(rows, 'row')}"
        how_large = f", {size(rows * found.plan.row_bytes)}"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"Nobody is there to be asked: say --yes to delete {what}.")
        click.confirm(escaped(f"Delete {what}{how_large}, for good?"), abort=True)
    opened.delete_run(run_id)
    echo(f"Deleted {what}.")


class _Looked:
    """Runs that are looked at one after the other, and the exit code that follows."""

    def __init__(self, store: "Store", names: list[str]) -> None:
        self._store, self.names = store, names
        self.code = 0

    def each(self, look: Callable[[str], T]) -> Iterator[tuple[str, T]]:
        """Look at them; one that is damaged or deleted meanwhile is said, and the others go on."""
        for name in self.names:
            error: TenterhookError | None = None
            try:
                found = look(name)
            except TenterhookError as raised:
                error = raised
            # What was deleted in the middle looks damaged; what was fine need not be looked at.
            if (error is not None or isinstance(found, list)) and not self._is_there(name):
                echo(f"{name}: deleted meanwhile", err=True)
            elif error is None:
                yield name, found
            elif isinstance(error, DamagedStore):
                echo(f"error: {error}", err=True)
                self.code = 1
            else:
                raise error

    def _is_there(self, name: str) -> bool:
        try:
            self._store.run(name)
        except UnknownRun:
            return False
        except TenterhookError:
            return True
        return True


def _units(store: "Store", name: str) -> str:
    try:
        found = store.run(name)
    except DamagedStore:
        return "it cannot be opened"
    dropped = f", {len(found.dropped):,} dropped" if found.dropped else ""
    return f"{len(found.committed):,} of {found.plan.unit_count:,} units{dropped}"


def _say_how_to_mend(store: "Store", name: str, problems: list["Problem"]) -> None:
    """Name the record to delete; none where metadata are damaged, which no unit makes again."""
    units = sorted({each.unit for each in problems if each.unit is not None})
    if units and not any(each.file.endswith("zarr.json") for each in problems):
        echo(
            f"hint: Unit {units[0]} of {name} is made again once "
            f"runs/{name}/commits/{units[0]:06}.json is deleted, by the command that began the run "
            f"or by: {shlex.join(['tenterhook', 'runs', 'resume', store.location, name])}",
            err=True,
        )


def _status_lines(found: "RunStatus") -> list[str]:
    rate = found.rows_per_second
    facts = [
        found.state,
        f"{found.rows_done:,} of {found.rows:,} rows",
        f"{found.units_done:,} of {found.units:,} units",
        size(found.bytes_done),
    ]
    facts += [f"{rate:,.0f} rows/s"] if rate else []
    facts += [] if found.seconds_left is None else [f"{how_long(found.seconds_left)} left"]
    facts += [f"{found.workers} processes at work"] if found.workers > 1 else []
    facts += [f"last at {found.last_activity}"] if found.last_activity else []
    lines = [f"{found.run}: {', '.join(facts)}"]
    if found.missing:
        lines.append(f"  missing: {_stretches(found.missing)}")
    lines += [f"  {line}" for line in _limit_lines(found)]
    lines += [f"  {_session(each)}" for each in found.open_sessions]
    lines += [f"  unit {number} failed: {cause}" for number, cause in [*found.failed.items()][:10]]
    if len(found.failed) > 10:
        lines.append(f"  and {len(found.failed) - 10} more failed; --json has them all")
    return lines


def _limit_lines(found: "RunStatus") -> list[str]:
    """Say of a run with a limit what it holds, who follows it, and for whom it waits."""
    if found.keep is None:
        return []
    lines = [f"limit {size(found.keep)}: {many(found.units_dropped, 'unit')} dropped"]
    if not found.followers:
        lines.append("nobody follows it yet: it waits once it is full")
    for name, unit in found.followers.items():
        where = f"at unit {unit}" if unit < found.units else "done"
        waits = ", and the run waits for it" if name in found.waits_for else ""
        lines.append(f"follower {name}: {where}{waits}")
    return lines


def _stretches(stretches: list[list[int]]) -> str:
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in stretches]
    more = f" and {len(shown) - 10} more stretches" if len(shown) > 10 else ""
    return f"units {', '.join(shown[:10])}{more}"


def _session(session: "OpenSession") -> str:
    who = f"process {session.process} on {session.host}"
    ago = f"{how_long(session.seconds)} ago"
    if not session.is_silent:
        return f"{who} is at work, last seen {ago}"
    return f"{who} was last seen {ago}: it is gone, or cannot reach the store"


def _without_rows(row: dict[str, Any]) -> str:
    return f" ({', '.join(row['reduced'])}, no rows)" if row["reduced"] else ""


def _row(run: "Run") -> dict[str, Any]:
    return {
        "run": run.id,
        "rows": run.rows_committed,
        "rows_planned": run.plan.rows,
        "complete": run.is_complete,
        "state": _state(run),
        "reduced": [] if run.layers else list(run.plan.spec.get("reduce", ())),
        "layers": list(run.layers) or [each["name"] for each in run.plan.spec.get("layers", ())],
    }


def _state(run: "Run") -> str:
    if run.is_complete:
        return "complete"
    return f"{run.rows_committed / run.plan.rows:.0%} of the rows"


def _facts(run: "Run") -> list[tuple[str, str]]:
    from tenterhook_store import ranges

    found = run.metadata
    model, documents = _object(found.get("model")), _object(found.get("documents"))
    facts = [
        ("run", run.id),
        ("state", _state(run)),
        ("rows", f"{run.rows_committed:,} of {run.plan.rows:,}"),
        *([("missing", _stretches(ranges(run.missing, None)))] if run.missing else []),
        *_limit(run),
        ("model", str(found["spec"].get("model") or model.get("name") or "-")),
        ("documents", f"{run.plan.documents:,} of {documents.get('source', '-')}"),
        ("start", found["start"] or "-"),
        ("end", found["end"] or "-"),
    ]
    facts += [
        (name.replace("_", " "), _plain(value))
        for name, value in _object(found.get("counts")).items()
        if value and name != "documents"
    ]
    if tokens := run.plan.spec.get("tokens"):
        facts.append(("tokens kept", f"{tokens} of each document"))
    if batches := batches_of(run.plan):
        facts.append(("batches", batches))
    facts += [("layer", each) for each in layers_of(run.plan)]
    facts += [("reduced", each) for each in reduced(run.plan)]
    for session in found["sessions"][-1:]:
        versions = session.get("versions") or {}
        facts.append(("made with", ", ".join(f"{name} {at}" for name, at in versions.items())))
        if session.get("git"):
            changed = ", with changes" if session["git"].get("changed") else ""
            facts.append(("code", f"{session['git'].get('commit')}{changed}"))
    return facts


def _limit(run: "Run") -> Iterator[tuple[str, str]]:
    """Say of a run with a limit what was dropped and who follows it."""
    from tenterhook_store import followers, ranges
    from tenterhook_store.limits import KEEP, units_held

    if units_held(run.plan) is None:
        return
    yield "limit", size(run.plan.about[KEEP])
    if run.dropped:
        yield "dropped", _stretches(ranges(sorted(run.dropped), None))
    for name, each in followers(run).items():
        done = each.unit >= run.plan.unit_count
        yield "follower", f"{name}, {'done' if done else f'at unit {each.unit}'}"


def _object(value: Any) -> dict[str, Any]:
    """Return what a run says of something in several words; it may say anything."""
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
