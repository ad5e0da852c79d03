"""Where the parts of a run are in its folder.

plan.json               what the run will hold; the run is there once this file is
zarr.json               a group
layers/NAME/            an array per layer, `[rows, features]`
rows/token|document|position/
                        an array each, `[rows]`
kept/000000.safetensors the small tensors of a unit, if it has any
commits/000000.json     one per committed unit; rows without a record count for nothing
attributes/NAME.json    what people noted on the run
log/000000.json         how the unit went: times and counts
sessions/NAME.json      who wrote: versions, platform, times
.writing/               shards that are not whole yet
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from tenterhook_store import ROW_ARRAYS, DamagedStore, RunPlan
from tenterhook_zarr._arrays import ArrayReader
from tenterhook_zarr._backend import Files, read_file
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._layout import ArrayLayout
from tenterhook_zarr._names import folder_names
from tenterhook_zarr._records import sealed, unsealed
from tenterhook_zarr._unit_tensors import unpack

PLAN = "plan.json"
Key = tuple[str, str]
"""An array: `("layer", name)`, or `("row", "token")` and so on."""


class RunFolder:
    """The files of one run."""

    def __init__(self, files: Files, path: PurePath, plan: RunPlan) -> None:
        self.files = files
        self.path = path
        self.plan = plan
        self._layers = folder_names(layer.name for layer in plan.layers)
        self._readers: dict[Key, ArrayReader] = {}

    @classmethod
    def open(cls, files: Files, path: PurePath) -> "RunFolder":
        """Read the plan of a run that is there."""
        try:
            plan = plan_of(read_file(files, path / PLAN), files.show(path / PLAN))
        except ValueError as error:
            raise DamagedStore(
                files.show(path / PLAN), f"this is no plan of a run ({error})"
            ) from error
        return cls(files, path, plan)

    @property
    def commits(self) -> PurePath:
        """Where the commit records are."""
        return self.path / "commits"

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
        return [("row", name) for name in ROW_ARRAYS] + [("layer", name) for name in self._layers]

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
        """Read the layout of an array that is there."""
        path = self.array(key) / "zarr.json"
        return ArrayLayout.read(self.read_file(path), self.files.show(path))

    def committed(self) -> frozenset[int]:
        """Return the numbers of the units that have a commit record."""
        return frozenset(_numbers(self.files.names(self.commits)))

    def read(self, key: Key, start: int, stop: int) -> Tensor:
        """Return rows of an array that follow each other; see `ArrayReader.read`."""
        return self._reader(key).read(start, stop)

    def take(self, key: Key, rows: Tensor, check: bool) -> Tensor:
        """Return any rows of an array, in their order; see `ArrayReader.take`."""
        return self._reader(key).take(rows, check=check)

    def record(self, number: int) -> dict[str, Any]:
        """Return the commit record of a unit that is committed."""
        return self.read_record(self.commits / unit_file(number))

    def records(self) -> dict[str, Any]:
        """Return what is known of the sessions and of the committed units."""
        units = self.committed().intersection(_numbers(self.files.names(self.log)))
        return {
            "sessions": [self.read_record(path) for path in self.records_in(self.sessions)],
            "units": [self.read_record(self.log / unit_file(unit)) for unit in sorted(units)],
        }

    def read_file(self, path: PurePath) -> bytes:
        """Return the content of a file that must be there."""
        return read_file(self.files, path)

    def read_record(self, path: PurePath) -> dict[str, Any]:
        """Return what a record that must be there says."""
        return unsealed(self.read_file(path), self.files.show(path))

    def records_in(self, folder: PurePath) -> list[PurePath]:
        """Return the records in a folder, by name."""
        return [folder / name for name in self.files.names(folder) if name.endswith(".json")]

    def _reader(self, key: Key) -> ArrayReader:
        if key not in self._readers:
            self._readers[key] = ArrayReader(self.files, self.array(key))
        return self._readers[key]

    def notes(self) -> dict[str, Any]:
        """Return what people noted."""
        found = [self.read_record(path) for path in self.records_in(self.attributes)]
        return {note["name"]: note["value"] for note in found}

    def tensors_file(self, number: int) -> PurePath:
        """Return where the small tensors of a unit are."""
        return self.tensors / f"{number:06d}.safetensors"


class UnitTensors:
    """Reads the small tensors of committed units."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def names(self, number: int) -> list[str]:
        """Return the names of those of a unit, sorted."""
        facts = self._folder.record(number).get("kept")
        return list(facts["names"]) if facts else []

    def load(self, number: int, name: str) -> Tensor:
        """Return one of them, of the shape and dtype it was kept with; raises `DamagedStore`."""
        facts, path = self._folder.record(number)["kept"], self._folder.tensors_file(number)
        return unpack(self._folder.read_file(path), facts, self._folder.files.show(path))[name]


def plan_checksum(folder: RunFolder) -> str:
    """Return the checksum of the plan's record, which the records of its units repeat."""
    return checksum(folder.read_file(folder.path / PLAN))


def plan_record(plan: RunPlan) -> bytes:
    """Return what `plan.json` holds."""
    return sealed(json.loads(plan.to_json()))


def plan_of(record: bytes, path: str) -> RunPlan:
    """Read a plan; `DamagedStore` or `ValueError` where it is none."""
    return RunPlan.from_json(json.dumps(unsealed(record, path)))


def unit_file(number: int) -> str:
    """Return the name of a unit's records."""
    return f"{number:06d}.json"


def _numbers(names: Iterable[str]) -> set[int]:
    return {int(name[:-5]) for name in names if re.fullmatch(r"\d{6,}\.json", name)}
