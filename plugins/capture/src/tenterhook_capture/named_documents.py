"""Documents by name: the files, data sets and plugins that a name stands for, and their reading."""

import inspect
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

import attrs

from tenterhook.errors import closest
from tenterhook.one_line import type_name
from tenterhook_capture.data_files import DataFile, Spool, ending_of, is_compressed
from tenterhook_capture.document_errors import NoSuchData, UnreadableData
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.given_documents import Documents, documents_of
from tenterhook_capture.record_files import CsvRecords, default_field, json_records
from tenterhook_capture.records import (
    DocumentField,
    JoinedRecords,
    Records,
)
from tenterhook_capture.tables import (
    ROWS_LOOKED_AT,
    ParquetTable,
    TableRecords,
    document_field,
)
from tenterhook_capture.text_files import SampleBy, TextRecords
from tenterhook_store.schemes import DEFAULT, absolute_name, resolve_name, split_scheme

JSON_LINES = (".jsonl", ".ndjson", ".json")
TEXT = (".txt", ".text", ".md")
CSV = (".csv", ".tsv")
PARQUET = (".parquet",)
RECORDS = (*JSON_LINES, *CSV, *PARQUET)
NOT_READ = (".arrow", ".feather", ".zip", ".tar", ".xlsx", ".pkl", ".npy", ".npz")
"""What else data is kept in, and is no text."""

SPLITS = {
    *("train", "training", "test", "testing", "dev", "val", "valid", "validation"),
    *("eval", "evaluation"),
}
"""Words in the names of files that say which part of a data set they are, as `datasets` has it."""


@attrs.frozen
class DataName:
    """How documents were named, so that another process can read the same."""

    name: str
    field: str | None = None
    sample_by: SampleBy = attrs.field(
        default="line", validator=attrs.validators.in_(get_args(SampleBy))
    )
    skip_bad_records: bool = False
    """Whether records that cannot be read are left out."""
    keep_fields: tuple[str, ...] = ()
    """The fields of records that are kept beside the documents."""

    def read(self) -> "Documents":
        """Read them; see `read_documents`."""
        return read_documents(
            self.name,
            field=self.field,
            # What was not said is `line` here, and for anything but text it says nothing.
            sample_by=None if self.sample_by == "line" else self.sample_by,
            skip_bad_records=self.skip_bad_records,
            keep_fields=self.keep_fields,
        )


def read_documents(
    name: str,
    *,
    field: str | None = None,
    sample_by: SampleBy | None = None,
    skip_bad_records: bool = False,
    keep_fields: Sequence[str] = (),
) -> Documents:
    """Read documents by name.

    A name with a scheme, `tiny:sample`, is read by the plugin that serves the scheme. Files are
    read by their ending: `.jsonl`, `.ndjson` and `.json` as JSON lines or a list, `.csv` and
    `.tsv`, `.parquet`, and others as text in UTF-8, of which `sample_by` says what a document is
    (a line, unless it is given). Each may be compressed: `.gz`, `.bz2`, `.xz`, `.zst` after it. A
    folder is all such files in it, or a data set that `datasets` wrote; any other name is a data
    set of Hugging Face.

    `field` names what holds the documents in a record: `text` by default, or `messages`, which
    holds conversations, or `input_ids`, token ids. `keep_fields` are other fields whose values are
    kept beside the documents. Empty documents are left out and counted; so are records that cannot
    be read, with `skip_bad_records`.

    Raises `NoSuchData`, `NoDocuments`, `UnknownField`, `UnreadableData`, `UnknownScheme`,
    `MissingPlugin`, `ValueError` for another `sample_by`, `BadArgument` for an option that does not
    apply, `BrokenExtension` where a plugin returns something else, and what it raises.
    """
    if sample_by is not None and sample_by not in get_args(SampleBy):
        raise ValueError(f"sample_by={sample_by!r} is not one of {list(get_args(SampleBy))}.")
    kept = (keep_fields,) if isinstance(keep_fields, str) else tuple(dict.fromkeys(keep_fields))
    how = DataName(name, field, sample_by or "line", skip_bad_records, kept)
    found = _read(how, sample_by)
    origin = attrs.evolve(how, name=absolute_name(name))
    return attrs.evolve(found, origin=origin, skips_bad=skip_bad_records)


def _read(how: DataName, sample_by: SampleBy | None) -> Documents:
    name = how.name
    if not name.strip() or "\0" in name:
        raise UnreadableData(repr(name), "this cannot name data")
    scheme, _ = split_scheme(name)
    path = Path(name).expanduser()
    try:
        is_there = path.exists()
    except OSError as error:  # a name that is too long, or links in a circle
        raise UnreadableData(f"{name[:80]!r}", f"this cannot name data: {error.strerror}") from None
    if scheme is None or is_there:
        if path.is_file():
            return _read_files([path], str(path), how, sample_by)
        if not is_there and _looks_like_a_file(name):
            raise NoSuchData(name, _near(path))
        if is_there and not path.is_dir():
            raise UnreadableData(name, "this is neither a file nor a folder")
        if files := _files_in(path):
            source = f"{path} ({len(files)} {'files' if len(files) > 1 else 'file'})"
            return _read_files(files, source, how, sample_by)
        name = f"{DEFAULT}:{path if path.is_dir() else name}"
    if sample_by is not None:
        raise _no_text_to_cut(sample_by, how.name)
    plugin, rest = resolve_name("datasets", name)
    more = {"keep_fields": how.keep_fields, "skip_bad_records": how.skip_bad_records}
    asked = {key: value for key, value in more.items() if value}
    for key in asked:
        if key not in inspect.signature(plugin.load()).parameters:
            raise BadArgument(key, asked[key], f"left out: {how.name} is read by {plugin.origin}")
    documents = plugin.call(rest, field=how.field, **asked)
    if not isinstance(documents, Documents):
        raise plugin.broken(f"returned a {type_name(documents)}, which is no Documents")
    return documents


def _no_text_to_cut(sample_by: SampleBy, name: str) -> BadArgument:
    expected = f"left out (--sample-by): it says how text is cut, and {name} holds records"
    return BadArgument("sample_by", sample_by, expected)


def _files_in(folder: Path) -> list[Path]:
    """Return the files of data in a folder and those inside it, in order.

    Empty where there are none, or `datasets` knows better what they are: a folder that it wrote,
    or files of several splits.
    """
    if any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        return []
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        inside = path.relative_to(folder)
        hidden = any(part.startswith((".", "_")) for part in inside.parts)
        about = path.name.upper().startswith(("README", "LICENSE"))
        if hidden or about or path.is_dir() or ending_of(path) not in (*TEXT, *RECORDS):
            continue
        if not path.is_file():  # a pipe, a device, a link to nothing
            raise UnreadableData(str(path), "this is no file; mend it, or take it out")
        found.append(path)
    words = [re.split(r"[^a-z]+", str(path.relative_to(folder)).lower()) for path in found]
    splits = {word for each in words for word in each} & SPLITS
    return [] if len(splits) > 1 else found


def _read_files(
    paths: Sequence[Path], source: str, how: DataName, sample_by: SampleBy | None
) -> Documents:
    kinds = [ending_of(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind in NOT_READ:
            ways = "text, JSON lines, CSV, Parquet, or a data set's folder"
            raise UnreadableData(str(path), f"{kind} files are not read; give {ways}")
    if sample_by is not None and all(kind in RECORDS for kind in kinds):
        raise _no_text_to_cut(sample_by, source)
    named = how.field if how.field is not None else next(iter(how.keep_fields), None)
    for path, kind in zip(paths, kinds, strict=True):
        if named is not None and kind not in RECORDS:
            reason = f"a text file has no field {named!r}; leave it out, or name the file .jsonl"
            raise UnreadableData(str(path), reason)
    spool = Spool()
    files = [DataFile(path, spool) for path in paths]
    parts = [_records(file, how) for file in files]
    field = next((each for part in parts if (each := _field_of(part, how))), None)
    field = field or DocumentField.of(how.field or "text", None)
    ready = [
        TableRecords(part, field, how.keep_fields) if isinstance(part, ParquetTable) else part
        for part in parts
    ]
    records: Records = ready[0] if len(ready) == 1 else JoinedRecords(ready, source)
    return documents_of(
        records,
        field,
        source,
        how.keep_fields,
        how.skip_bad_records,
        named=any(kind in RECORDS for kind in kinds),
    )


def _records(file: DataFile, how: DataName) -> "Records | ParquetTable":
    if file.ending in PARQUET:
        return ParquetTable(file)
    if file.ending in CSV:
        return CsvRecords(file)
    return json_records(file) if file.ending in JSON_LINES else TextRecords(file, how.sample_by)


def _field_of(part: "Records | ParquetTable", how: DataName) -> DocumentField | None:
    """Return the field that holds the documents, by the first records that can be read."""
    if isinstance(part, ParquetTable):
        return document_field(part, how.field)
    name = how.field
    for scanned in islice(part.scan(), ROWS_LOOKED_AT):
        try:
            record = scanned.read()
        except UnreadableData:
            continue
        name = default_field(record) if name is None else name
        if record.get(name) is not None:
            return DocumentField.of(name, record[name])
    return None if name is None else DocumentField.of(name, None)


def _looks_like_a_file(name: str) -> bool:
    """Say whether a name that is not there was meant as a path, not as a name on the hub."""
    path = Path(name)
    return (
        ending_of(path) in (*TEXT, *RECORDS, *NOT_READ)
        or is_compressed(path)
        or name.startswith(("/", ".", "~"))
        or "\\" in name
        or name.count("/") > 1
    )


def _near(path: Path) -> list[str]:
    try:
        names = sorted(each.name for each in path.parent.iterdir())
    except OSError:
        return []
    names = [name for name in names if name != path.name]  # a link that leads nowhere is there
    return [str(path.parent / name) for name in closest(path.name, names)] if names else []
