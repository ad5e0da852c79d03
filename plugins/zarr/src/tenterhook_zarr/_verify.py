"""Verifying a run: every checksum is read, and files are compared with plan and commit records."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from tenterhook_store import DamagedStore, Problem
from tenterhook_zarr._backend import Files, check_length
from tenterhook_zarr._checksums import checksum
from tenterhook_zarr._folder import (
    PLAN,
    Key,
    RunFolder,
    plan_checksum,
    unit_file,
)
from tenterhook_zarr._layout import ArrayLayout, group_metadata, to_json
from tenterhook_zarr._shards import shard_facts
from tenterhook_zarr._unit_tensors import unpack


def verify(files: Files, path: PurePath) -> list[Problem]:
    """Return what is wrong with a run that is there, the run itself first, then unit by unit."""
    try:
        folder = RunFolder.open(files, path)
    except DamagedStore as error:
        return [_problem(None, error)]
    return [*_of_run(folder), *_of_units(folder)]


def _of_run(folder: RunFolder) -> Iterator[Problem]:
    for group in folder.groups():
        yield from _compare(folder, None, group / "zarr.json", checksum(to_json(group_metadata())))
    for path in (*folder.records_in(folder.sessions), *folder.records_in(folder.attributes)):
        try:
            folder.read_record(path)
        except DamagedStore as error:
            yield _problem(None, error)
    for key in folder.keys():  # noqa: SIM118
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
    known = range(folder.plan.unit_count)
    for number in sorted(folder.committed().difference(known)):
        cause = f"the plan has {len(known)} units and none of this number"
        yield Problem(number, folder.files.show(folder.commits / unit_file(number)), cause)


def _of_units(folder: RunFolder) -> Iterator[Problem]:
    layouts: dict[Key, ArrayLayout] = {}
    for key in folder.keys():  # noqa: SIM118
        try:
            layouts[key] = folder.layout(key)
        except DamagedStore:
            continue  # reported with the run
    plan = plan_checksum(folder)
    for number in sorted(folder.committed().intersection(range(folder.plan.unit_count))):
        try:
            record = folder.record(number)
            _check_record(folder, record, number, plan)
        except DamagedStore as error:
            yield _problem(number, error)
            continue
        for key, layout in layouts.items():
            yield from _of_array(folder, number, key, layout, record["arrays"][folder.name(key)])
        yield from _of_tensors(folder, number, record)
        log = folder.log / unit_file(number)
        try:
            folder.read_record(log)
        except DamagedStore as error:
            yield _problem(number, error)


def _check_record(folder: RunFolder, record: dict[str, Any], number: int, plan: str) -> None:
    """Raise `DamagedStore` unless a record is one of this unit of this run."""
    path, unit = folder.files.show(folder.commits / unit_file(number)), folder.plan.unit(number)
    expected = {"unit": number, "rows": [unit.start, unit.stop]}
    for key, value in expected.items():
        if record.get(key) != value:
            raise DamagedStore(path, f"it is of {key} {record.get(key)} and should be of {value}")
    if record.get("plan") != plan:
        raise DamagedStore(path, f"it was made with another {PLAN} than the one that is there")
    names = {folder.name(key) for key in folder.keys()}  # noqa: SIM118
    if record["arrays"].keys() != names:
        found = sorted(record["arrays"])
        raise DamagedStore(path, f"it names the arrays {found} and the plan {sorted(names)}")


def _of_array(
    folder: RunFolder, number: int, key: Key, layout: ArrayLayout, recorded: dict[str, Any]
) -> Iterator[Problem]:
    unit, array = folder.plan.unit(number), folder.array(key)
    yield from _compare(folder, number, array / "zarr.json", recorded["metadata"])
    shards = range(unit.start // layout.shard_rows, -(-unit.stop // layout.shard_rows))
    if [facts["shard"] for facts in recorded["shards"]] != list(shards):
        cause = f"it does not name shards {shards.start} to {shards.stop} of {folder.name(key)}"
        yield Problem(number, folder.files.show(folder.commits / unit_file(number)), cause)
        return
    for facts in recorded["shards"]:
        shard = facts["shard"]
        path = array / layout.shard_key(shard)
        shown = folder.files.show(path)
        try:
            content = folder.read_file(path)
            check_length(len(content), facts["bytes"], shown)
            found = shard_facts(content, layout, shard, shown)
        except DamagedStore as error:
            yield _problem(number, error)
            continue
        if found["crc32c"] != facts["crc32c"]:
            yield Problem(
                number,
                folder.files.show(path),
                "it is whole, but is not the one that was committed",
            )


def _of_tensors(folder: RunFolder, number: int, record: dict[str, Any]) -> Iterator[Problem]:
    if "kept" not in record:
        return
    path = folder.tensors_file(number)
    try:
        unpack(folder.read_file(path), record["kept"], folder.files.show(path))
    except DamagedStore as error:
        yield _problem(number, error)


def _compare(
    folder: RunFolder, number: int | None, path: PurePath, recorded: str
) -> Iterator[Problem]:
    """Compare a file of metadata with its checksum."""
    try:
        if checksum(folder.read_file(path)) != recorded:
            yield Problem(
                number, folder.files.show(path), "its checksum says that it is not what was written"
            )
    except DamagedStore as error:
        yield _problem(number, error)


def _problem(number: int | None, error: DamagedStore) -> Problem:
    return Problem(number, error.path, error.reason)
