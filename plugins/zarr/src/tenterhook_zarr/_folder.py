"""Where the parts of a run are in its folder.

plan.json               what the run will hold; the run is there once this file is
zarr.json               a group
layers/NAME/            an array per layer, `[rows, features]`
rows/token|document|position/
                        an array each, `[rows]`
commits/000000.json     one per committed unit; rows without a record count for nothing
log/000000.json         how the unit went: times and counts
sessions/NAME.json      who wrote: versions, platform, times
.writing/               shards that are not whole yet
"""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from tenterhook.store import ROW_ARRAYS, DamagedStore, RunPlan
from tenterhook_zarr._arrays import ArrayReader, read_file
from tenterhook_zarr._layout import ArrayLayout
from tenterhook_zarr._names import folder_names

PLAN = "plan.json"
Key = tuple[str, str]
"""An array: `("layer", name)`, or `("row", "token")` and so on."""


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path, plan: RunPlan) -> None:
        self.path = path
        self.plan = plan
        self._layers = folder_names(layer.name for layer in plan.layers)
        self._readers: dict[Key, ArrayReader] = {}

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Read the plan of a run that is there."""
        try:
            plan = RunPlan.from_json(read_file(path / PLAN))
        except ValueError as error:
            raise DamagedStore(str(path / PLAN), f"this is no plan of a run ({error})") from error
        return cls(path, plan)

    @property
    def commits(self) -> Path:
        """Where the commit records are."""
        return self.path / "commits"

    @property
    def log(self) -> Path:
        """Where the records of times are."""
        return self.path / "log"

    @property
    def sessions(self) -> Path:
        """Where the records of processes are."""
        return self.path / "sessions"

    @property
    def writing(self) -> Path:
        """Where shards are until they are whole."""
        return self.path / ".writing"

    def folders(self) -> list[Path]:
        """Return the folders that a run has beside those of its arrays."""
        return [*self.groups(), self.commits, self.log, self.sessions]

    def groups(self) -> list[Path]:
        """Return the folders of the zarr groups."""
        arrays = self.path / "arrays"
        return [arrays, arrays / "layers", arrays / "rows"]

    def keys(self) -> list[Key]:
        """Return all arrays, those of one number per row first."""
        return [("row", name) for name in ROW_ARRAYS] + [("layer", name) for name in self._layers]

    def array(self, key: Key) -> Path:
        """Return the folder of an array."""
        kind, name = key
        if kind == "row":
            return self.path / "arrays" / "rows" / name
        return self.path / "arrays" / "layers" / self._layers[name]

    def planned_layout(self, key: Key) -> ArrayLayout:
        """Choose the layout of an array that is new."""
        kind, name = key
        features = None if kind == "row" else self.plan.layer(name).features
        return ArrayLayout.plan(
            rows=self.plan.rows,
            features=features,
            dtype=ROW_ARRAYS[name] if kind == "row" else self.plan.layer(name).dtype,
            rows_per_unit=self.plan.rows_per_unit,
        )

    def layout(self, key: Key) -> ArrayLayout:
        """Read the layout of an array that is there."""
        path = self.array(key) / "zarr.json"
        return ArrayLayout.read(read_file(path), str(path))

    def committed(self) -> frozenset[int]:
        """Return the numbers of the units that have a commit record."""
        return frozenset(_numbered(self.commits))

    def read(self, key: Key, start: int, stop: int) -> Tensor:
        """Return rows of an array that follow each other."""
        return self._reader(key).read(start, stop)

    def take(self, key: Key, rows: Tensor, check: bool) -> Tensor:
        """Return any rows of an array, in their order."""
        return self._reader(key).take(rows, check=check)

    def records(self) -> dict[str, Any]:
        """Return what is known of the sessions and of the committed units."""
        committed = self.committed()
        logs = _numbered(self.log)
        sessions = sorted(self.sessions.glob("*.json")) if self.sessions.is_dir() else []
        return {
            "sessions": [json.loads(path.read_bytes()) for path in sessions],
            "units": [
                json.loads(logs[number].read_bytes())
                for number in sorted(logs)
                if number in committed
            ],
        }

    def _reader(self, key: Key) -> ArrayReader:
        if key not in self._readers:
            self._readers[key] = ArrayReader(self.array(key))
        return self._readers[key]


def unit_file(number: int) -> str:
    """Return the name of a unit's records."""
    return f"{number:06d}.json"


def _numbered(folder: Path) -> dict[int, Path]:
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:  # a run that was just begun
        return {}
    return {int(p.stem): p for p in paths if re.fullmatch(r"\d{6,}\.json", p.name)}
