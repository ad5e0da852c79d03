"""Where the parts of a run are in its folder.

plan.json               what the run will hold; the run is there once this file is
zarr.json               a group
layers/NAME/            an array per layer, `[rows, features]`
rows/token|document|position/
                        an array each, `[rows]`
kept/000000.safetensors the small tensors of a unit, if it has any
shared/NAME.json        what all who work on the run share (`_shared`), and below NAME its pieces
commits/000000.json     one per committed unit; rows without a record count for nothing
dropped/000000.json     of a run with a limit: the rows of this unit are gone (`_dropping`)
attributes/NAME.json    what people noted on the run
log/000000.json         how the unit went: times and counts
sessions/NAME.json      who wrote: versions, platform, times
.writing/               shards that are not whole yet
"""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from tenterhook_store import ROW_ARRAYS, CannotKeep, DamagedStore, RunPlan
from tenterhook_store.limits import held_now, units_held
from tenterhook_store.structuring import structured
from tenterhook_zarr._backend import Files, read_file
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._commits import (
    CommitRecord,
    Note,
    SessionFacts,
    SignedArray,
    SignedShard,
    UnitFacts,
)
from tenterhook_zarr._dtypes import stored_as
from tenterhook_zarr._inside import LARGEST
from tenterhook_zarr._layout import ArrayLayout, to_json
from tenterhook_zarr._names import layer_folders
from tenterhook_zarr._records import record_of, sealed, unsealed
from tenterhook_zarr._signs import Signs
from tenterhook_zarr._unit_tensors import unpack

if TYPE_CHECKING:
    from torch import Tensor

    from tenterhook_zarr._arrays import ArrayReader

PLAN = "plan.json"

REMEMBERED = 64
"""How many commit records are in memory."""

Key = tuple[str, str]
"""An array: `("layer", name)`, or `("row", "token")` and so on."""


class RunFolder:
    """The files of one run."""

    def __init__(self, files: Files, path: PurePath, plan: RunPlan, signature: str = "") -> None:
        """`signature` is the checksum of the plan's record, which those of its units repeat."""
        self.files = files
        self.path = path
        self.plan = plan
        self.signature = signature
        self._readers: dict[Key, ArrayReader] = {}
        self._records: dict[int, CommitRecord] = {}

    @classmethod
    def open(cls, files: Files, path: PurePath) -> "RunFolder":
        """Read the plan of a run that is there."""
        shown = files.show(path / PLAN)
        content = read_file(files, path / PLAN)
        try:
            plan = plan_of(content, shown)
            for layer in plan.layers:
                stored_as(layer.dtype)
        except (ValueError, CannotKeep) as error:
            raise DamagedStore(shown, f"this is no plan of a run ({error})") from error
        return cls(files, path, plan, checksum(content))

    @cached_property
    def _layers(self) -> dict[str, str]:
        """The folder of each layer, once one is asked for."""
        layers = self.path / "arrays" / "layers"
        names = (layer.name for layer in self.plan.layers)
        return layer_folders(names, lambda: self.files.names(layers))

    @property
    def commits(self) -> PurePath:
        """Where the commit records are."""
        return self.path / "commits"

    @property
    def drops(self) -> PurePath:
        """Where the records of units are whose rows are gone."""
        return self.path / "dropped"

    @property
    def log(self) -> PurePath:
        """Where the records of times are."""
        return self.path / "log"

    @property
    def sessions(self) -> PurePath:
        """Where the records of processes are."""
        return self.path / "sessions"

    @property
    def tensors(self) -> PurePath:
        """Where the small tensors of units are."""
        return self.path / "kept"

    @property
    def shared(self) -> PurePath:
        """Where what all who work on the run share is."""
        return self.path / "shared"

    def shared_folders(self) -> list[PurePath]:
        """Return the folders of what is shared, those of the pieces among them."""
        names = [name for name in self.files.names(self.shared) if "." not in name]
        return [self.shared, *(self.shared / name for name in names)]

    @property
    def attributes(self) -> PurePath:
        """Where what people noted is."""
        return self.path / "attributes"

    @property
    def writing(self) -> Path:
        """Where shards are until they are whole."""
        return self.files.staging(self.path)

    def folders(self) -> list[PurePath]:
        """Return the folders that a run has beside those of its arrays."""
        return [
            *self.groups(),
            self.commits,
            self.tensors,
            self.attributes,
            self.log,
            self.sessions,
        ]

    def groups(self) -> list[PurePath]:
        """Return the folders of the zarr groups."""
        arrays = self.path / "arrays"
        return [arrays, arrays / "layers", arrays / "rows"]

    def keys(self) -> list[Key]:
        """Return all arrays, those of one number per row first."""
        return [("row", name) for name in ROW_ARRAYS] + [
            ("layer", layer.name) for layer in self.plan.layers
        ]

    def array(self, key: Key) -> PurePath:
        """Return the folder of an array."""
        kind, name = key
        if kind == "row":
            return self.path / "arrays" / "rows" / name
        return self.path / "arrays" / "layers" / self._layers[name]

    def name(self, key: Key) -> str:
        """Return what commit records call an array: its path below `arrays`."""
        return self.array(key).relative_to(self.groups()[0]).as_posix()

    def planned_layout(self, key: Key) -> ArrayLayout:
        """Choose the layout of an array that is new."""
        kind, name = key
        features = None if kind == "row" else self.plan.layer(name).features
        return ArrayLayout.plan(
            rows=self.plan.rows,
            features=features,
            dtype=ROW_ARRAYS[name] if kind == "row" else self.plan.layer(name).dtype,
            rows_per_unit=self.plan.rows_per_unit,
            codec=self.plan.codec,
        )

    def layout(self, key: Key) -> ArrayLayout:
        """Read the layout of an array that is there; `DamagedStore` for one not of the plan."""
        return self._layout(key)[0]

    def signs(self, key: Key) -> Signs:
        """Return what readers of an array believe.

        The metadata follow from the plan, but for the sizes of chunks and shards. These were
        chosen by who wrote them, and the records of the units sign them.
        """
        layout, metadata = self._layout(key)
        folder, seal = self.array(key), checksum(metadata)

        def signed(shard: int) -> SignedShard:
            unit = shard * layout.shard_rows // self.plan.rows_per_unit
            shards = self.signed_array(key, layout, seal, unit).shards
            return shards[shard - shards[0].shard]

        def path(shard: int) -> str:
            return self.files.show(folder / layout.shard_key(shard))

        return Signs(
            layout=layout,
            metadata=metadata,
            shard=signed,
            path=path,
            look=lambda shard: self.files.look(folder / layout.shard_key(shard)),
        )

    def _layout(self, key: Key) -> tuple[ArrayLayout, bytes]:
        path = self.array(key) / "zarr.json"
        content, shown = self.read_file(path), self.files.show(path)
        planned = self.planned_layout(key)
        if content == to_json(planned.metadata({key[0]: key[1]})):
            return planned, content
        found = ArrayLayout.read(content, shown)
        if not found.is_as_planned(planned, self.plan.rows_per_unit) or content != to_json(
            found.metadata({key[0]: key[1]})
        ):
            raise DamagedStore(
                shown, f"this is not the metadata of {key[0]} {key[1]!r} of the plan"
            )
        return found, content

    def committed(self) -> frozenset[int]:
        """Return the numbers of the units that have a commit record.

        What it says is read, and believed or not, with the first of its rows.
        """
        return _numbers(self.files.names(self.commits), self.plan.unit_count)

    def dropped(self) -> frozenset[int]:
        """Return the numbers of the units whose rows are gone; none of a run without a limit."""
        if units_held(self.plan) is None:
            return frozenset()
        return _numbers(self.files.names(self.drops), self.plan.unit_count)

    def odd_commits(self) -> list[tuple[int | None, str]]:
        """Return what is among the commit records and is that of no unit of the plan.

        Each with the number that its name says, if it does.
        """
        units = self.committed()
        names = (name for name in self.files.names(self.commits) if not name.startswith("."))
        found = ((_number(name), name) for name in names)
        return [each for each in found if each[0] not in units]

    def read(self, key: Key, start: int, stop: int) -> "Tensor":
        """Return rows of an array that follow each other; see `ArrayReader.read`."""
        try:
            return self._reader(key).read(start, stop)
        except DamagedStore:
            self._check_held(range(start, stop))
            raise

    def take(self, key: Key, rows: "Tensor", check: bool) -> "Tensor":
        """Return any rows of an array, in their order; see `ArrayReader.take`."""
        try:
            return self._reader(key).take(rows, check=check)
        except DamagedStore:
            self._check_held(rows)
            raise

    def _check_held(self, rows: "range | Tensor") -> None:
        """Raise `DroppedRows` where one of the rows was dropped, perhaps meanwhile."""
        if dropped := self.dropped():
            held_now(self.path.name, self.plan, self.committed(), dropped).check(rows)

    def record(self, number: int) -> CommitRecord:
        """Return the commit record of a unit; `DamagedStore` unless it is one of this run."""
        found = self._records.get(number)
        if found is None:
            path = self.commits / unit_file(number)
            found = record_of(CommitRecord, self.read_record(path), self.files.show(path))
            self._check_record(found, number)
            self._records[number] = found
            for oldest in list(self._records)[:-REMEMBERED]:
                self._records.pop(oldest, None)
        return found

    def _check_record(self, record: CommitRecord, number: int) -> None:
        """Raise `DamagedStore` unless a record is that of this unit of this plan."""
        path, unit = self.files.show(self.commits / unit_file(number)), self.plan.unit(number)
        expected = {"unit": number, "rows": (unit.start, unit.stop)}
        for name, value in expected.items():
            if (found := getattr(record, name)) != value:
                raise DamagedStore(path, f"it is of {name} {found} and should be of {value}")
        if record.plan != self.signature:
            raise DamagedStore(path, f"it was made with another {PLAN} than the one that is there")
        names = {self.name(key) for key in self.keys()}
        if record.arrays.keys() != names:
            found = sorted(record.arrays)
            raise DamagedStore(path, f"it names the arrays {found} and the plan {sorted(names)}")

    def signed_array(self, key: Key, layout: ArrayLayout, seal: str, number: int) -> SignedArray:
        """Return what a unit's record says of an array; `DamagedStore` where it cannot be.

        `seal` is the checksum of the array's metadata.
        """
        unit, found = self.plan.unit(number), self.record(number).arrays[self.name(key)]
        shards = range(unit.start // layout.shard_rows, -(-unit.stop // layout.shard_rows))
        if found.metadata != seal:
            path = self.files.show(self.array(key) / "zarr.json")
            raise DamagedStore(path, "its checksum says that it is not what was written")
        if [each.shard for each in found.shards] != list(shards):
            cause = f"it does not name shards {shards.start} to {shards.stop} of {self.name(key)}"
            raise DamagedStore(self.files.show(self.commits / unit_file(number)), cause)
        return found

    def records(self) -> dict[str, Any]:
        """Return what is known of the sessions and of the committed units."""
        names = self.files.names(self.log)
        units = self.committed().intersection(_numbers(names, self.plan.unit_count))
        return {
            "sessions": [self.session(path) for path in self.records_in(self.sessions)],
            "units": [self.unit_log(unit) for unit in sorted(units)],
        }

    def recent(self, count: int) -> dict[str, Any]:
        """Return the same of the units that were committed last alone."""
        names = self.files.newest(self.log, count) if count else []
        units = _numbers(names, self.plan.unit_count)
        units = frozenset(
            each for each in units if self.files.is_there(self.commits / unit_file(each))
        )
        return {
            "sessions": [self.session(path) for path in self.records_in(self.sessions)],
            "units": [self.unit_log(unit) for unit in sorted(units)],
        }

    def session(self, path: PurePath) -> dict[str, Any]:
        """Return the record of a process."""
        found = self.read_record(path)
        record_of(SessionFacts, found, self.files.show(path), more=True)
        return found

    def unit_log(self, number: int) -> dict[str, Any]:
        """Return how a unit went."""
        path = self.log / unit_file(number)
        found = self.read_record(path)
        record_of(UnitFacts, found, self.files.show(path), more=True)
        return found

    def read_file(self, path: PurePath, most: int = LARGEST) -> bytes:
        """Return the content of a file that must be there."""
        return read_file(self.files, path, most)

    def read_record(self, path: PurePath) -> dict[str, Any]:
        """Return what a record that must be there says."""
        return unsealed(self.read_file(path), self.files.show(path))

    def records_in(self, folder: PurePath) -> list[PurePath]:
        """Return the records in a folder, by name."""
        return [folder / name for name in self.files.names(folder) if name.endswith(".json")]

    def _reader(self, key: Key) -> "ArrayReader":
        if key not in self._readers:
            from tenterhook_zarr._arrays import ArrayReader

            self._readers[key] = ArrayReader(self.files, self.array(key), self.signs(key))
        return self._readers[key]

    def notes(self) -> dict[str, Any]:
        """Return what people noted."""
        found = [
            record_of(Note, self.read_record(path), self.files.show(path))
            for path in self.records_in(self.attributes)
        ]
        return {note.name: note.value for note in found}

    def tensors_file(self, number: int) -> PurePath:
        """Return where the small tensors of a unit are."""
        return self.tensors / f"{number:06d}.safetensors"


class UnitTensors:
    """Reads the small tensors of committed units."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def names(self, number: int) -> list[str]:
        """Return the names of those of a unit, sorted."""
        kept = self._folder.record(number).kept
        return list(kept.names) if kept else []

    def load(self, number: int, name: str) -> "Tensor":
        """Return one of them, of the shape and dtype it was kept with; raises `DamagedStore`."""
        kept, path = self._folder.record(number).kept, self._folder.tensors_file(number)
        assert kept is not None  # `names` has it
        content = self._folder.read_file(path, kept.bytes)
        return unpack(content, kept, self._folder.files.show(path))[name]


def plan_checksum(folder: RunFolder) -> str:
    """Return the checksum of the plan's record, which the records of its units repeat."""
    return checksum(folder.read_file(folder.path / PLAN))


def plan_record(plan: RunPlan) -> bytes:
    """Return what `plan.json` holds."""
    return sealed(json.loads(plan.to_json()))


def plan_of(record: bytes, path: str) -> RunPlan:
    """Read a plan; `DamagedStore` or `ValueError` where it is none."""
    return structured(RunPlan, unsealed(record, path))


def unit_file(number: int) -> str:
    """Return the name of a unit's records."""
    return f"{number:06d}.json"


_is_unit_file = re.compile(r"(\d{6}|[1-9]\d{6,18})\.json", re.ASCII).fullmatch


def _numbers(names: Iterable[str], count: int) -> frozenset[int]:
    """Return the numbers of units, of as many as there are, that files are named after."""
    # Of a run of 100,000 units this line is most of the time that opening it takes.
    found = (int(name[:-5]) for name in names if _is_unit_file(name))
    return frozenset(number for number in found if number < count)


def _number(name: str) -> int | None:
    """Return the number of a unit, of which there is one name alone."""
    return int(name[:-5]) if _is_unit_file(name) else None
