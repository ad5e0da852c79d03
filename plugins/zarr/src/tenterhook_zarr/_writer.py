"""Writing a run: units whose shards are whole and durable before their record is there.

Several processes may write one run, and any of them may be killed at any line. Two rules hold it
together: a file appears whole or not at all, and of several that write one file exactly one is the
first. What happens in a run:

1. `begin_run` writes `plan.json`, where there is none. From then on the run is there. Whoever comes
   second compares plans. The metadata of the arrays follows from the plan, and any of them writes
   what is missing.
2. `open_unit` makes a folder below `.writing/` that has the process's name on it; for an object
   store that is a folder of this machine. Whoever opens the run to write later removes it if that
   process is gone.
3. `append` writes rows into shards in that folder (`_shards`). A shard that is full is made durable
   by a thread while the next one fills.
4. `commit` waits until the last shard is durable, and looks whether the run is still the one that
   was opened.
5. Side by side, the shards are moved to their places in the arrays, the small tensors are written,
   and the log. A whole shard that is there already stays: another process did the same unit, and
   somebody may be reading it.
6. When all of these are durable, the unit's record is written, where there is none. It has the
   checksums of all shards and seals itself (`_records`). Only now do the rows count.
7. In an object store the run may have been deleted between 4 and 6, where a folder would have been
   renamed: so the record is taken back if the plan is gone (`_check_removal`).
8. `finish` tidies up once all units have a record; nothing that is read changes.

A process that is killed before 6 leaves shards that nobody counts. The unit is done again, and
finds those that were moved already. test_killed_at_any_step_and_resumed kills at each of them.
"""

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from tenterhook_store import (
    ROW_ARRAYS,
    BadName,
    DamagedStore,
    DeletedRun,
    IncompleteRun,
    NotAStore,
    NotWritable,
    OtherRun,
    RowBlock,
    RunPlan,
    Unit,
    Unreachable,
    WrongRows,
    torch_dtype,
)
from tenterhook_store.unfinished import is_abandoned, unfinished_name
from tenterhook_store.unit_numbers import UnitNumbers
from tenterhook_zarr._backend import Files, check_length, read_file
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._dropping import finish_drops, remove_again
from tenterhook_zarr._dtypes import to_bytes
from tenterhook_zarr._files import in_folder, make_scratch, remove_if_empty, remove_tree
from tenterhook_zarr._folder import (
    PLAN,
    Key,
    RunFolder,
    plan_checksum,
    plan_record,
    unit_file,
)
from tenterhook_zarr._layout import ArrayLayout, group_metadata, to_json
from tenterhook_zarr._records import sealed
from tenterhook_zarr._shards import ShardWriter, shard_facts
from tenterhook_zarr._shared import share
from tenterhook_zarr._unit_tensors import describe, pack, storable

FORMAT = 1

AT_ONCE = 8
"""How many files are made durable side by side, because each waits for the disk or a server."""


class ZarrRunWriter:
    """Writes a run in a folder, in one of possibly several processes."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._layouts = {key: folder.layout(key) for key in folder.keys()}  # noqa: SIM118
        self._writing = folder.writing / unfinished_name()
        self._plan_checksum = plan_checksum(folder)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._folder.path.name

    @property
    def plan(self) -> RunPlan:
        """The run's plan."""
        return self._folder.plan

    def committed(self) -> frozenset[int]:
        """Return the numbers of the units that are committed now, whoever wrote them."""
        return self._folder.committed()

    def open_unit(self, unit: Unit) -> "ZarrUnitWriter":
        """Begin a unit, from its first row, whatever was left of an earlier try.

        Raises `WrongRows` for a unit of another plan, `DeletedRun` where the run is gone, and
        `NotWritable`.
        """
        if unit != self.plan.unit(unit.number):
            raise WrongRows(f"unit {unit.number}", str(self.plan.unit(unit.number)), str(unit))
        with naming(self._folder, f"unit {unit.number}"):
            return ZarrUnitWriter(
                self._folder, self._layouts, unit, self._writing, self._plan_checksum
            )

    def note_session(self, session: str, facts: Mapping[str, Any]) -> None:
        """Keep what is to be known of this process's part of the work."""
        with naming(self._folder, f"session {session}"):
            self._folder.files.write(self._folder.sessions / f"{session}.json", sealed(facts))

    def share(
        self, name: str, pieces: Iterable[Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        """Keep tensors with the run as a whole; see `SharesTensors.share`."""
        with naming(self._folder, f"what is shared as {name!r}"):
            share(self._folder, name, pieces, facts)

    def finish(self) -> None:
        """Remove what writers left, once all units are committed; `IncompleteRun` otherwise.

        What a process that lives is writing stays: it is doing a unit again, and removes its own.
        """
        committed = self.committed()
        if len(committed) < self.plan.unit_count:
            missing = UnitNumbers.missing(committed, self.plan.unit_count)
            raise IncompleteRun(self.run_id, missing)
        remove_tree(self._writing)
        _tidy(self._folder)


class ZarrUnitWriter:
    """Writes the shards of one unit aside, moves them into place, and publishes the record."""

    def __init__(
        self,
        folder: RunFolder,
        layouts: Mapping[Key, ArrayLayout],
        unit: Unit,
        writing: Path,
        plan_checksum: str,
    ) -> None:
        self._folder = folder
        self._plan_checksum = plan_checksum
        self._tensors: dict[str, Tensor] = {}
        self._unit = unit
        self._rows = 0
        self._aside = writing / f"unit-{unit.number:06d}-{secrets.token_hex(4)}"
        check_there(folder, plan_checksum)
        make_scratch(self._aside)
        self._pool = ThreadPoolExecutor(AT_ONCE, "tenterhook-write")  # no thread before it is used
        self._arrays = [
            _UnitArray(key, layout, unit, self._aside / str(number), self._pool)
            for number, (key, layout) in enumerate(layouts.items())
        ]

    def append(self, block: RowBlock) -> None:
        """Write the unit's next rows; `WrongRows` where they do not fit the plan."""
        block.check(self._folder.plan)
        self._check_room(len(block))
        numbers = dict(
            zip(ROW_ARRAYS, (block.tokens, block.documents, block.positions), strict=True)
        )
        with naming(self._folder, f"unit {self._unit.number}"):
            for array in self._arrays:
                kind, name = array.key
                array.append(numbers[name] if kind == "row" else block.layers[name])
        self._rows += len(block)

    def keep(self, name: str, tensor: Tensor) -> None:
        """Keep a copy of a small tensor, of any shape, with the unit; see `UnitWriter.keep`."""
        self._tensors[checked_tensor_name(name)] = storable(tensor)

    def commit(self, log: Mapping[str, Any]) -> None:
        """Make the unit durable, then visible; see `UnitWriter.commit`."""
        if self._rows != self._unit.rows:
            self._wrong(self._rows)
        with naming(self._folder, f"unit {self._unit.number}"):
            self._publish(log)
        self.discard()

    def _publish(self, log: Mapping[str, Any]) -> None:
        """Do steps 4 to 7; nothing where the unit has its record, which is read to be sure."""
        files, name = self._folder.files, unit_file(self._unit.number)
        if files.is_there(self._folder.commits / name):
            self._folder.record(self._unit.number)
            return
        for array in self._arrays:
            array.finish()
        for array in self._arrays:
            array.wait()
        check_there(self._folder, self._plan_checksum)
        facts = {"unit": self._unit.number, "rows": self._unit.rows, **log}
        logged = self._pool.submit(files.write, self._folder.log / name, sealed(facts))
        tensors = self._pool.submit(self._write_tensors)
        published = list(self._pool.map(self._publish_shards, self._arrays))
        logged.result()
        record: dict[str, Any] = {
            "format": FORMAT,
            "unit": self._unit.number,
            "rows": [self._unit.start, self._unit.stop],
            "plan": self._plan_checksum,
            "arrays": dict(published),
            **tensors.result(),
        }
        files.write_once(self._folder.commits / name, sealed(record))
        remove_again(self._folder, self._unit.number)
        if not files.is_local:
            self._check_removal(self._folder.commits / name)

    def _check_removal(self, record: PurePath) -> None:
        """Raise `DeletedRun`, and take the record back, if the run was removed meanwhile.

        Where folders are not renamed a removal can have passed by before the record came.
        """
        files = self._folder.files
        if not files.is_there(self._folder.path / PLAN):
            files.remove(record)
            raise DeletedRun(self._folder.path.name)

    def discard(self) -> None:
        """Drop what is not in place."""
        self._pool.shutdown()
        for array in self._arrays:
            array.close()
        remove_tree(self._aside)
        remove_if_empty(self._aside.parent)
        remove_if_empty(self._folder.writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def _publish_shards(self, array: "_UnitArray") -> tuple[str, dict[str, Any]]:
        """Move the shards of an array into its folder; return what the record says of them."""
        folder = self._folder.array(array.key)
        metadata = checksum(self._folder.read_file(folder / "zarr.json"))
        shards = array.move_shards(self._folder.files, folder)
        return self._folder.name(array.key), {"metadata": metadata, "shards": shards}

    def _write_tensors(self) -> dict[str, Any]:
        """Write the small tensors, if there are any; return what the record says of them."""
        if not self._tensors:
            return {}
        content = pack(self._tensors)
        self._folder.files.write(self._folder.tensors_file(self._unit.number), content)
        return {"kept": describe(content, self._tensors)}

    def _check_room(self, more: int) -> None:
        if self._rows + more > self._unit.rows:
            self._wrong(self._rows + more)

    def _wrong(self, rows: int) -> None:
        unit = f"unit {self._unit.number}"
        raise WrongRows(unit, f"{self._unit.rows} rows", f"{rows} rows")


class _UnitArray:
    """The shards of one array in one unit."""

    def __init__(
        self, key: Key, layout: ArrayLayout, unit: Unit, prefix: Path, pool: Executor
    ) -> None:
        """Shards that are full are made durable by the pool."""
        self.key = key
        self._layout = layout
        self._pool = pool
        self._dtype = torch_dtype(layout.dtype)
        self._prefix = prefix
        self._next = unit.start // layout.shard_rows
        self._room = 0
        self._writer: ShardWriter | None = None
        self._finishing: dict[int, Future[dict[str, Any]]] = {}
        self._done: dict[int, dict[str, Any]] = {}

    def append(self, rows: Tensor) -> None:
        content = to_bytes(rows.to(self._dtype))
        while len(content):
            if self._writer is None:
                self._writer = ShardWriter(self._path(self._next), self._layout, self._next)
                self._room = self._layout.shard_rows * self._layout.row_bytes
            some = content[: self._room]
            self._writer.append(some)
            self._room -= len(some)
            content = content[len(some) :]
            if not self._room:
                self._finish_shard()

    def finish(self) -> None:
        """Have the last shard be made durable, too."""
        if self._writer is not None:
            self._finish_shard()

    def wait(self) -> None:
        """Wait until all shards are durable."""
        self._done = {shard: facts.result() for shard, facts in self._finishing.items()}

    def move_shards(self, files: Files, folder: PurePath) -> list[dict[str, Any]]:
        """Move the shards into the folder of the array, durably; say what is there then.

        A whole one that is there stays, because others may be reading it: that of a process that
        does the same unit, or did.
        """
        return [{"shard": shard, **self._move_shard(files, shard, folder)} for shard in self._done]

    def _move_shard(self, files: Files, shard: int, folder: PurePath) -> dict[str, Any]:
        target, aside = folder / self._layout.shard_key(shard), self._path(shard)
        try:
            check_length(aside.stat().st_size, self._done[shard]["bytes"], str(aside))
        except FileNotFoundError:
            raise DamagedStore(str(aside), "this file is gone") from None
        files.make_below(folder, target.parent)
        if not files.move_once(aside, target):
            try:
                found = read_file(files, target, 2 * self._layout.shard_bytes(shard) + 2**20)
                return shard_facts(found, self._layout, shard, files.show(target))
            except DamagedStore:
                files.move(aside, target)
        return self._done[shard]

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _finish_shard(self) -> None:
        assert self._writer is not None
        self._finishing[self._next] = self._pool.submit(_finished, self._writer)
        self._writer = None
        self._next += 1

    def _path(self, shard: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}-{shard}")


def _finished(writer: ShardWriter) -> dict[str, Any]:
    with contextlib.closing(writer):
        return writer.finish()


@contextlib.contextmanager
def naming(folder: RunFolder, what: str) -> Iterator[None]:
    """Say of what the system refuses which part of the run it was, and what to do."""
    try:
        with noticing_removal(folder):
            yield
    except (NotWritable, NotAStore, Unreachable, FileNotFoundError):
        raise
    except OSError as error:
        # What an object store refuses is another error: this was where shards are laid down.
        here = folder.files.show(folder.path) if folder.files.is_local else str(folder.writing)
        where = str(error.filename or here)
        reason = (
            f"{what} cannot be written ({error.strerror or error}); make room or rights, then the "
            "same command goes on. What is committed stays"
        )
        raise NotWritable(where, reason) from error


@contextlib.contextmanager
def noticing_removal(folder: RunFolder) -> Iterator[None]:
    """Raise `DeletedRun` for a file that is gone where the whole run is."""
    try:
        yield
    except (FileNotFoundError, DamagedStore) as error:
        if not folder.files.is_there(folder.path / PLAN):
            raise DeletedRun(folder.path.name) from error
        raise


def check_there(folder: RunFolder, plan: str) -> None:
    """Raise `DeletedRun` unless the run is still the one that has this plan."""
    try:
        found = plan_checksum(folder)
    except DamagedStore:
        found = ""
    if found != plan:
        raise DeletedRun(folder.path.name)


def checked_tensor_name(name: Any) -> str:
    """Return the name that a small tensor of a unit may have, which is nearly any.

    Raises `BadName` for what is no text, is empty, or cannot be written in UTF-8.
    """
    if not isinstance(name, str):
        raise BadName("kept tensor", name, f"it is a {type(name).__name__} and no string")
    if name in ("", "__metadata__"):
        raise BadName("kept tensor", name, "safetensors files have another use for it")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadName("kept tensor", name, "it is no valid Unicode") from None
    return name


def begin_run(files: Files, path: PurePath, plan: RunPlan) -> ZarrRunWriter:
    """Make a run, or open one of the same plan; `OtherRun` where it is another's.

    The plan is published first, by put-if-absent, and all else follows from it: whoever is killed
    on the way, or comes second, leaves what the next one needs. Once it is there, others may be
    writing rows: nothing is ever taken back after that.
    """
    files.settle(path)
    _remove_remains(files, path)
    record = plan_record(plan)
    is_new = _publish(files, path, record)
    folder = RunFolder(files, path, plan, checksum(record))
    with noticing_removal(folder):
        folder = folder if is_new else RunFolder.open(files, path)
        if differences := plan.differences(folder.plan):
            raise OtherRun(path.name, differences)
        _remove_set_aside(folder)
        _lay_out(folder)
        finish_drops(folder)
        return ZarrRunWriter(folder)


def _remove_remains(files: Files, path: PurePath) -> None:
    """Remove what a writer wrote that was killed after its run had been removed.

    The plan is written before all else, so what is there without one is no run's.
    """
    if not files.is_local and files.names(path) and not files.is_there(path / PLAN):
        files.remove_all(path)


def _publish(files: Files, path: PurePath, record: bytes) -> bool:
    if not files.is_local:
        return files.write_once(path / PLAN, record)
    try:
        return in_folder(Path(path), lambda: files.write_once(path / PLAN, record))
    except BaseException:
        remove_if_empty(Path(path))
        raise


def _lay_out(folder: RunFolder) -> None:
    files = folder.files
    nodes = {group: group_metadata() for group in folder.groups()}
    for key in folder.keys():  # noqa: SIM118
        nodes[folder.array(key)] = folder.planned_layout(key).metadata({key[0]: key[1]})

    def describe(node: PurePath) -> None:
        if not files.is_there(node / "zarr.json"):
            files.write_once(node / "zarr.json", to_json(nodes[node]))

    files.make_below(folder.path, *folder.folders(), *nodes)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(describe, nodes))


def _tidy(folder: RunFolder) -> None:
    """Remove what killed processes left: files that are not whole, and shards set aside."""
    arrays = [folder.array(key) for key in folder.keys()]  # noqa: SIM118
    finish_drops(folder)
    drops = [folder.drops] if folder.dropped() else []
    for each in (folder.path, *folder.folders(), *folder.shared_folders(), *drops, *arrays):
        folder.files.tidy(each)
    _remove_set_aside(folder)


def _remove_set_aside(folder: RunFolder) -> None:
    """Remove the shards that killed processes left, which may be large.

    Each process that begins does this; it lists no folder that has a file for each unit.
    """
    if folder.writing.is_dir():
        for writing in folder.writing.iterdir():
            if is_abandoned(writing, writing.name):
                remove_tree(writing)
        remove_if_empty(folder.writing)
