"""The folder of an export: written beside its place, and named once it is whole and on the disk.

It is written in a folder of the process's own, whose name says which process that is. What a
process leaves that is killed, the next export beside it removes.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from tenterhook.errors import TenterhookError
from tenterhook_store.errors import NotWritable, PlaceTaken
from tenterhook_store.exports.replacing import replace_folder, restore
from tenterhook_store.readable import Readable
from tenterhook_store.row_ranges import RowRanges, ranges
from tenterhook_store.unfinished import is_abandoned, unfinished_name

MARK = "run.json"
"""Says what is in the folder, and that it may be overwritten."""

DOCUMENTS = "documents.jsonl"
"""Has the fields that are kept of the documents, where a run keeps some."""

FORMAT = "tenterhook export"

OLD = "old"
"""Where what is replaced is for a moment, where nothing else can be."""

REFUSED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
"""What the system says where a folder cannot be written."""


@attrs.frozen(eq=False)
class ExportFolder:
    """A folder that is being written."""

    path: Path
    """Where to write: a new and empty folder beside the one that was asked for."""

    facts: dict[str, Any] = attrs.field(factory=dict)
    """What `run.json` says beside, in plain JSON values; to be filled in."""


@contextlib.contextmanager
def export_folder(
    folder: str | os.PathLike[str],
    run: Readable,
    rows: RowRanges,
    kind: str,
    *,
    overwrite: bool = False,
) -> Iterator[ExportFolder]:
    """Open a folder to write to, which becomes the one asked for when the block ends.

    `run.json` is written to it: the format `kind`, which rows of the run they are, which units are
    missing, and the run's metadata. So is `documents.jsonl` where the run keeps fields of its
    documents. Where the block raises nothing is left, and what was there
    before still is. Raises `PlaceTaken` where the folder holds something, unless that is an export
    and `overwrite` is true; `NotWritable` where the system refuses.
    """
    try:
        # Links in a circle are a RuntimeError up to Python 3.12, and after that stay as they are.
        target = Path(folder).expanduser().resolve()
        is_circle = target.is_symlink()
    except RuntimeError:
        is_circle = True
    if is_circle:
        raise PlaceTaken(str(folder), "links in a circle are there; choose another folder")
    _remove_abandoned(target)
    _check_place(target, overwrite)
    aside = target.with_name(f".{target.name[:100]}.{unfinished_name()}.partial")
    whole = aside / "export"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir(mode=0o700)
        whole.mkdir()
        made = ExportFolder(whole)
        yield made
        made.facts.update(_write_documents(whole, run))
        _mark(whole, run, rows, kind, made.facts)
        for path in whole.iterdir():
            _sync(path)
        _sync(whole)
        _check_place(target, overwrite)  # again: it took long
        replace_folder(whole, target, aside / OLD)
        _sync(target.parent)
    except OSError as error:
        if error.errno not in REFUSED or isinstance(error, TenterhookError):
            raise
        why = os.strerror(error.errno or 0)  # pyarrow writes a sentence of its own
        reason = f"it cannot be written ({why}); make room or rights, or choose another"
        raise NotWritable(str(target), f"{reason}. Nothing of it is left") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_documents(folder: Path, run: Readable) -> dict[str, Any]:
    """Write the fields that are kept of the documents, a line for each document; return the facts.

    Of a run that lacks units nothing is written: those have the values of some documents.
    """
    names = run.documents.fields
    if not names or run.missing:
        return {}
    columns = [run.documents[name] for name in names]
    with (folder / DOCUMENTS).open("w", encoding="utf-8") as file:
        for at, values in enumerate(zip(*columns, strict=True)):
            record = {"document": at, "fields": dict(zip(names, values, strict=True))}
            file.write(json.dumps(record) + "\n")
    return {"documents": DOCUMENTS}


def _mark(folder: Path, run: Readable, rows: RowRanges, kind: str, facts: dict[str, Any]) -> None:
    left_out = {"missing_units": ranges(run.missing, None)} if run.missing else {}
    mark = {"format": FORMAT, "kind": kind, "rows": rows.pairs(), **left_out, **facts}
    mark["metadata"] = run.metadata
    content = json.dumps(mark, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / MARK).write_text(content, encoding="utf-8")


def _check_place(target: Path, overwrite: bool) -> None:
    """Raise `PlaceTaken` unless nothing is there, or what may be overwritten."""
    if os.path.ismount(target):
        raise PlaceTaken(str(target), "a file system is mounted there; choose a folder in it")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not _is_export(target):
        raise PlaceTaken(str(target), "something else is there; choose another folder")
    if not overwrite:
        reason = (
            "a run was exported to it before; choose another folder, or replace it "
            "(overwrite=True, --overwrite)"
        )
        raise PlaceTaken(str(target), reason)


def _is_export(target: Path) -> bool:
    try:
        if not (target / MARK).is_file():  # a pipe would wait for whoever writes to it
            return False
        return bool(json.loads((target / MARK).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _remove_abandoned(target: Path) -> None:
    """Remove what exports to this place have left that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            found = re.fullmatch(r"\.(.*)\.([^.]+)\.partial", name, re.DOTALL)
            path = target.with_name(name)
            if found is None or found[1] != target.name[:100] or path.is_symlink():
                continue
            if is_abandoned(path, found[2]):
                restore(target, path / OLD)
                shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have a file or folder on the disk, where the system can."""
    if os.name == "nt":  # folders cannot be opened there, nor files for reading be synced
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
