"""Writing a run: units whose shards are whole and durable before their record is there."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from tenterhook.store import (
    ROW_ARRAYS,
    IncompleteRun,
    OtherRun,
    RowBlock,
    RunPlan,
    Unit,
    WrongRows,
    torch_dtype,
)
from tenterhook_zarr._arrays import check_size
from tenterhook_zarr._dtypes import to_bytes
from tenterhook_zarr._files import (
    in_folder,
    make_folders,
    remove_abandoned,
    remove_if_empty,
    remove_tree,
    sync_folder,
    write_once,
    write_whole,
)
from tenterhook_zarr._folder import PLAN, Key, RunFolder, unit_file
from tenterhook_zarr._layout import ArrayLayout, group_metadata, to_json
from tenterhook_zarr._shards import ShardWriter
from tenterhook_zarr._writers import is_abandoned, unfinished_name

FORMAT = 1


class ZarrRunWriter:
    """Writes a run in a folder, in one of possibly several processes."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._layouts = {key: folder.layout(key) for key in folder.keys()}  # noqa: SIM118
        self._writing = folder.writing / unfinished_name()

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
        """Begin a unit, from its first row, whatever was left of an earlier try."""
        if unit != self.plan.unit(unit.number):
            raise WrongRows(f"unit {unit.number}", str(self.plan.unit(unit.number)), str(unit))
        return ZarrUnitWriter(self._folder, self._layouts, unit, self._writing)

    def note_session(self, session: str, facts: Mapping[str, Any]) -> None:
        """Keep what is to be known of this process's part of the work."""
        write_whole(self._folder.sessions / f"{session}.json", to_json(dict(facts)))

    def finish(self) -> None:
        """Remove what writers left, once all units are committed; `IncompleteRun` otherwise.

        What a process that lives is writing stays: it is doing a unit again, and removes its own.
        """
        missing = sorted(set(range(self.plan.unit_count)) - self.committed())
        if missing:
            raise IncompleteRun(self.run_id, missing)
        remove_tree(self._writing)
        _tidy(self._folder)


class ZarrUnitWriter:
    """Writes the shards of one unit aside, then puts them in place and publishes the record."""

    def __init__(
        self, folder: RunFolder, layouts: Mapping[Key, ArrayLayout], unit: Unit, writing: Path
    ) -> None:
        self._folder = folder
        self._unit = unit
        self._rows = 0
        self._aside = writing / f"unit-{unit.number:06d}-{secrets.token_hex(4)}"
        make_folders(self._aside)
        self._arrays = [
            _UnitArray(key, layout, unit, self._aside / str(number))
            for number, (key, layout) in enumerate(layouts.items())
        ]

    def append(self, block: RowBlock) -> None:
        """Write the unit's next rows; `WrongRows` where they do not fit the plan."""
        block.check(self._folder.plan)
        self._check_room(len(block))
        numbers = dict(
            zip(ROW_ARRAYS, (block.tokens, block.documents, block.positions), strict=True)
        )
        for array in self._arrays:
            kind, name = array.key
            array.append(numbers[name] if kind == "row" else block.layers[name])
        self._rows += len(block)

    def commit(self, log: Mapping[str, Any]) -> None:
        """Make the unit durable, then visible; see `UnitWriter.commit`."""
        if self._rows != self._unit.rows:
            self._wrong(self._rows)
        shards = {array.key: array.finish() for array in self._arrays}
        record = {
            "format": FORMAT,
            "unit": self._unit.number,
            "rows": [self._unit.start, self._unit.stop],
            "arrays": {
                self._folder.array(key).relative_to(self._folder.groups()[0]).as_posix(): sizes
                for key, sizes in shards.items()
            },
        }
        for array in self._arrays:
            array.put_in_place(self._folder.array(array.key))
        name = unit_file(self._unit.number)
        facts = {"unit": self._unit.number, "rows": self._unit.rows, **log}
        write_whole(self._folder.log / name, to_json(facts))
        write_once(self._folder.commits / name, to_json(record))
        self.discard()

    def discard(self) -> None:
        """Drop what is not in place."""
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

    def _check_room(self, more: int) -> None:
        if self._rows + more > self._unit.rows:
            self._wrong(self._rows + more)

    def _wrong(self, rows: int) -> None:
        unit = f"unit {self._unit.number}"
        raise WrongRows(unit, f"{self._unit.rows} rows", f"{rows} rows")


class _UnitArray:
    """The shards of one array in one unit."""

    def __init__(self, key: Key, layout: ArrayLayout, unit: Unit, prefix: Path) -> None:
        self.key = key
        self._layout = layout
        self._dtype = torch_dtype(layout.dtype)
        self._prefix = prefix
        self._next = unit.start // layout.shard_rows
        self._room = 0
        self._writer: ShardWriter | None = None
        self._done: dict[int, int] = {}

    def append(self, rows: Tensor) -> None:
        content = to_bytes(rows.to(self._dtype))
        while len(content):
            if self._writer is None:
                self._writer = ShardWriter(self._path(self._next), self._layout)
                self._room = self._layout.shard_rows * self._layout.row_bytes
            some = content[: self._room]
            self._writer.append(some)
            self._room -= len(some)
            content = content[len(some) :]
            if not self._room:
                self._finish_shard()

    def finish(self) -> list[dict[str, int]]:
        """Finish the last shard; say which there are, and how long."""
        if self._writer is not None:
            self._finish_shard()
        return [{"shard": shard, "bytes": size} for shard, size in self._done.items()]

    def put_in_place(self, folder: Path) -> None:
        """Move the shards into the folder of the array, durably."""
        for shard in self._done:
            target = folder / self._layout.shard_key(shard)
            make_folders(target.parent)
            self._path(shard).replace(target)
            check_size(target, self._layout.shard_bytes(shard))
            sync_folder(target.parent)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _finish_shard(self) -> None:
        assert self._writer is not None
        self._done[self._next] = self._writer.finish()
        self._writer = None
        self._next += 1

    def _path(self, shard: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}-{shard}")


def begin_run(path: Path, plan: RunPlan) -> ZarrRunWriter:
    """Make a run, or open one of the same plan; `OtherRun` where it is another's.

    The plan is published first, by put-if-absent, and all else follows from it: whoever is killed
    on the way, or comes second, leaves what the next one needs. Once it is there, others may be
    writing rows: nothing is ever taken back after that.
    """
    content = plan.to_json().encode()
    try:
        is_new = in_folder(path, lambda: write_once(path / PLAN, content))
    except BaseException:
        remove_if_empty(path)
        raise
    folder = RunFolder(path, plan) if is_new else RunFolder.open(path)
    if differences := plan.differences(folder.plan):
        raise OtherRun(path.name, differences)
    _tidy(folder)
    _lay_out(folder)
    return ZarrRunWriter(folder)


def _lay_out(folder: RunFolder) -> None:
    for each in folder.folders():
        make_folders(each)
    for group in folder.groups():
        write_once(group / "zarr.json", to_json(group_metadata()))
    for key in folder.keys():  # noqa: SIM118
        array = folder.array(key)
        if not (array / "zarr.json").exists():
            make_folders(array)
            metadata = folder.planned_layout(key).metadata({key[0]: key[1]})
            write_once(array / "zarr.json", to_json(metadata))


def _tidy(folder: RunFolder) -> None:
    """Remove what killed processes left: files that are not whole, and shards set aside."""
    arrays = [folder.array(key) for key in folder.keys()]  # noqa: SIM118
    for each in (folder.path, *folder.folders(), *arrays):
        remove_abandoned(each)
    if folder.writing.is_dir():
        for writing in folder.writing.iterdir():
            if is_abandoned(writing, writing.name):
                remove_tree(writing)
        remove_if_empty(folder.writing)
