"""Dropping units of a run with a limit: a record that says so, and only then their rows go.

dropped/000000.json  says that the rows of the unit are gone, or are about to go

A process that is killed between the two leaves rows that nobody reads any more. They go when the
unit is dropped again, or when the run is next opened to be written. The shard of the token ids goes
last, so that a listing of that one array shows of which units something is left.
"""

from tenterhook_store import DamagedStore
from tenterhook_store.limits import check_droppable, units_held
from tenterhook_zarr._commits import DroppedRecord
from tenterhook_zarr._folder import PLAN, RunFolder, unit_file
from tenterhook_zarr._records import record_of, sealed

FORMAT = 1


def drop_unit(folder: RunFolder, number: int) -> None:
    """Remove the rows of a committed unit; see `DropsUnits.drop_unit`."""
    files, name = folder.files, unit_file(number)
    is_committed = files.is_there(folder.commits / name)
    check_droppable(folder.plan, folder.path.name, number, is_committed)
    files.make_below(folder.path, folder.drops)
    record = {"format": FORMAT, "unit": number, "plan": folder.signature}
    if not files.write_once(folder.drops / name, sealed(record)):
        check_dropped(folder, number)
    _remove_rows(folder, number)


def check_dropped(folder: RunFolder, number: int) -> None:
    """Raise `DamagedStore` unless the record that a unit was dropped is one of this run."""
    path = folder.drops / unit_file(number)
    shown = folder.files.show(path)
    record = record_of(DroppedRecord, folder.read_record(path), shown)
    if record.unit != number:
        raise DamagedStore(shown, f"it is of unit {record.unit} and should be of {number}")
    if record.plan != folder.signature:
        raise DamagedStore(shown, f"it was made with another {PLAN} than the one that is there")


def finish_drops(folder: RunFolder) -> None:
    """Remove the rows of dropped units that a process which was killed has left."""
    dropped = folder.dropped() & folder.committed()
    if not dropped:
        return
    key = folder.keys()[0]
    layout = folder.layout(key)
    for name in filter(str.isdigit, folder.files.names(folder.array(key) / "c")):
        number = int(name) * layout.shard_rows // folder.plan.rows_per_unit
        if number in dropped:
            check_dropped(folder, number)
            _remove_rows(folder, number)


def remove_again(folder: RunFolder, number: int) -> None:
    """Remove the rows of a unit that came to its place after another process's was dropped."""
    if units_held(folder.plan) is not None and number in folder.dropped():
        check_dropped(folder, number)
        _remove_rows(folder, number)


def _remove_rows(folder: RunFolder, number: int) -> None:
    unit = folder.plan.unit(number)
    for key in reversed(folder.keys()):  # `rows/token` is the first of them
        layout = folder.layout(key)
        for shard in range(unit.start // layout.shard_rows, -(-unit.stop // layout.shard_rows)):
            folder.files.remove(folder.array(key) / layout.shard_key(shard))
