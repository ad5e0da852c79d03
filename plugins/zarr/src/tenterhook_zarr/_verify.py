"""Verifying a run: every checksum is read, and files are compared with plan and commit records."""

from collections.abc import Iterator
from pathlib import PurePath

from tenterhook_store import DamagedStore, Problem
from tenterhook_store.progress import Work, showing
from tenterhook_zarr._backend import Files, check_length
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._commits import Note
from tenterhook_zarr._dropping import check_dropped
from tenterhook_zarr._folder import Key, RunFolder, unit_file
from tenterhook_zarr._layout import ArrayLayout, group_metadata, to_json
from tenterhook_zarr._records import record_of
from tenterhook_zarr._shards import shard_facts
from tenterhook_zarr._shared import problems_of_shared
from tenterhook_zarr._unit_tensors import unpack


def verify(files: Files, path: PurePath) -> list[Problem]:
    """Return what is wrong with a run that is there, the run itself first, then unit by unit.

    A run that was planned, and has none of its files yet or some, is as it should be.
    """
    try:
        folder = RunFolder.open(files, path)
    except DamagedStore as error:
        return [_problem(None, error)]
    with showing(f"Verifying {path.name}", len(folder.committed()), "units") as work:
        return [*_of_run(folder), *_of_units(folder, work)]


def _of_run(folder: RunFolder) -> Iterator[Problem]:
    has_begun = bool(folder.committed())
    for group in folder.groups():
        if has_begun or folder.files.is_there(group / "zarr.json"):
            yield from _compare(folder, group / "zarr.json", checksum(to_json(group_metadata())))
    for path in folder.records_in(folder.sessions):
        try:
            folder.session(path)
        except DamagedStore as error:
            yield _problem(None, error)
    for path in folder.records_in(folder.attributes):
        try:
            record_of(Note, folder.read_record(path), folder.files.show(path))
        except DamagedStore as error:
            yield _problem(None, error)
    yield from problems_of_shared(folder)
    for key in folder.keys():  # noqa: SIM118
        if not has_begun and not folder.files.is_there(folder.array(key) / "zarr.json"):
            continue
        try:
            layout = folder.layout(key)
        except DamagedStore as error:
            yield _problem(None, error)
            continue
        shards = folder.array(key) / "c"
        for name in folder.files.names(shards):
            if not name.isdigit() or int(name) * layout.shard_rows >= folder.plan.rows:
                yield Problem(
                    None, folder.files.show(shards / name), "no unit of the plan has this shard"
                )
    for unit in sorted(folder.dropped() - folder.committed()):
        record = folder.files.show(folder.drops / unit_file(unit))
        yield Problem(unit, record, "it says that a unit was dropped which is not committed")
    for number, name in folder.odd_commits():
        cause = f"the plan has {folder.plan.unit_count} units and none whose record has this name"
        yield Problem(number, folder.files.show(folder.commits / name), cause)


def _of_units(folder: RunFolder, work: Work) -> Iterator[Problem]:
    layouts: dict[Key, ArrayLayout] = {}
    for key in folder.keys():  # noqa: SIM118
        try:
            layouts[key] = folder.layout(key)
        except DamagedStore:
            continue  # reported with the run
    seals = {key: checksum(folder.read_file(folder.array(key) / "zarr.json")) for key in layouts}
    dropped = folder.dropped()
    for number in sorted(folder.committed()):
        problems: list[Problem] | None = None
        if number not in dropped:
            problems = [*_of_unit(folder, number, layouts, seals)]
        if problems is None or (problems and number in folder.dropped()):  # dropped meanwhile
            problems = [*_of_dropped(folder, number), *_of_unit(folder, number, {}, seals)]
        yield from problems
        work()


def _of_dropped(folder: RunFolder, number: int) -> Iterator[Problem]:
    """Check what says that a unit was dropped: without rows it is as it should be."""
    try:
        check_dropped(folder, number)
    except DamagedStore as error:
        yield _problem(number, error)


def _of_unit(
    folder: RunFolder, number: int, layouts: dict[Key, ArrayLayout], seals: dict[Key, str]
) -> Iterator[Problem]:
    try:
        folder.record(number)
    except DamagedStore as error:
        yield _problem(number, error)
        return
    for key, layout in layouts.items():
        yield from _of_array(folder, number, key, layout, seals[key])
    yield from _of_tensors(folder, number)
    try:
        folder.unit_log(number)
    except DamagedStore as error:
        yield _problem(number, error)


def _of_array(
    folder: RunFolder, number: int, key: Key, layout: ArrayLayout, seal: str
) -> Iterator[Problem]:
    try:
        signed = folder.signed_array(key, layout, seal, number)
    except DamagedStore as error:
        yield _problem(number, error)
        return
    for each in signed.shards:
        path = folder.array(key) / layout.shard_key(each.shard)
        shown = folder.files.show(path)
        try:
            content = folder.read_file(path, each.bytes)
            check_length(len(content), each.bytes, shown)
            found = shard_facts(content, layout, each.shard, shown)
        except DamagedStore as error:
            yield _problem(number, error)
            continue
        if found["crc32c"] != each.crc32c or each.chunks not in ("", found["chunks"]):
            cause = "it is whole, but is not the one that was committed"
            yield Problem(number, shown, cause)


def _of_tensors(folder: RunFolder, number: int) -> Iterator[Problem]:
    kept = folder.record(number).kept
    if kept is None:
        return
    path = folder.tensors_file(number)
    try:
        unpack(folder.read_file(path, kept.bytes), kept, folder.files.show(path))
    except DamagedStore as error:
        yield _problem(number, error)


def _compare(folder: RunFolder, path: PurePath, recorded: str) -> Iterator[Problem]:
    """Compare a file of metadata with its checksum."""
    try:
        if checksum(folder.read_file(path)) != recorded:
            yield Problem(
                None, folder.files.show(path), "its checksum says that it is not what was written"
            )
    except DamagedStore as error:
        yield _problem(None, error)


def _problem(number: int | None, error: DamagedStore) -> Problem:
    return Problem(number, error.path, error.reason)
