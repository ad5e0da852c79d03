"""Documents: the texts that a model reads, and where they come from."""

import hashlib
import inspect
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import attrs

from tenterhook.errors import closest
from tenterhook.one_line import type_name
from tenterhook_capture.conversations import conversation_text, is_conversation
from tenterhook_capture.data_files import DataFile, Spool, ending_of, is_compressed
from tenterhook_capture.document_errors import NoDocuments, NoSuchData, UnknownField, UnreadableData
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.id_lists import ids_text, is_ids
from tenterhook_capture.lazy_texts import AT_ONCE, LazyTexts, LazyValues, texts_with_content
from tenterhook_capture.record_files import CsvRecords, default_field, json_records
from tenterhook_capture.records import (
    DocumentField,
    JoinedRecords,
    Records,
    check_text,
    find_documents,
)
from tenterhook_capture.spilled import Numbers
from tenterhook_capture.tables import (
    ROWS_LOOKED_AT,
    ParquetTable,
    Table,
    TableRecords,
    as_table,
    column_values,
    document_field,
)
from tenterhook_capture.text_files import SampleBy, TextRecords
from tenterhook_store import ranges
from tenterhook_store.schemes import DEFAULT, absolute_name, resolve_name, split_scheme

__all__ = [
    "AT_ONCE",
    "DataName",
    "Documents",
    "LazyTexts",
    "NoDocuments",
    "NoSuchData",
    "SampleBy",
    "UnknownField",
    "UnreadableData",
    "ranges",
    "read_documents",
    "read_table",
    "texts_with_content",
]

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


def _as_texts(texts: Iterable[str]) -> Sequence[str]:
    return texts if isinstance(texts, LazyTexts) else tuple(texts)


def _as_numbers(numbers: Iterable[int]) -> Sequence[int]:
    return numbers if isinstance(numbers, Numbers) else tuple(numbers)


@attrs.frozen(eq=False)
class Documents:
    """Texts in order, and what they are. Text `i` is document `i` of a run made of them.

    Those of files and data sets are `LazyTexts`; others are kept as a tuple.
    """

    texts: Sequence[str] = attrs.field(converter=_as_texts)
    source: str = attrs.field(default="the texts given", kw_only=True)
    """What they were read from, for people."""
    field: str | None = attrs.field(default=None, kw_only=True)
    """The field of the records that they were, where they were records."""
    empty: Sequence[int] = attrs.field(default=(), converter=_as_numbers, kw_only=True)
    """The numbers, from 0 and rising, of the records that were empty and left out."""
    bad: Sequence[int] = attrs.field(default=(), converter=_as_numbers, kw_only=True)
    """And of those that cannot be read, and were left out because that was asked for."""
    fields: Mapping[str, Sequence[Any]] = attrs.field(factory=dict, kw_only=True)
    """Other fields of the records: for each that is kept, a value for each document."""
    origin: DataName | None = attrs.field(default=None, kw_only=True)
    """The name that `read_documents` read them by; `None` for texts that were given."""
    are_messages: bool = attrs.field(default=False, kw_only=True)
    """Whether each is a conversation: its messages as JSON, which the model's chat template makes
    text of."""
    are_token_ids: bool = attrs.field(default=False, kw_only=True)
    """Whether each is token ids, as JSON, which the model reads as they are."""

    @texts.validator
    def _check_texts(self, attribute: object, texts: Sequence[str]) -> None:
        if isinstance(texts, LazyTexts):
            return
        given: Sequence[object] = texts
        for number, text in enumerate(given):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise UnreadableData(
                    f"document {number}",
                    f"it is a {kind}, and must be a str, a list of messages or a list of token ids",
                )

    def __attrs_post_init__(self) -> None:
        if not self.texts:
            raise NoDocuments(self.source, self.skipped)

    @property
    def skipped(self) -> int:
        """How many empty ones were left out."""
        return len(self.empty)

    @classmethod
    def of(
        cls,
        data: "Documents | Iterable[Any]",
        *,
        field: str | None = None,
        keep_fields: Sequence[str] = (),
        skip_bad_records: bool = False,
        limit: int | None = None,
    ) -> "Documents":
        """Return texts, conversations, token ids or a table as documents; documents as they are.

        A conversation is a list of messages with `role` and `content`; token ids are a list of
        ints for each document, or a tensor or array `(documents, tokens)`. A table is one of
        pandas, pyarrow, polars or `datasets`, or a list of records: `field` is the column that
        holds the documents, and `keep_fields` are those that are kept beside it. Raises
        `UnreadableData` for a `str` or a mapping, `ValueError` for a `field` of what has none.
        """
        if isinstance(data, Documents):
            return data.first(limit)
        if isinstance(data, str):
            raise UnreadableData("documents", "this is one str; give a list of texts")
        table = as_table(data)
        if table is not None:
            return read_table(
                table,
                field=field,
                keep_fields=keep_fields,
                skip_bad_records=skip_bad_records,
                limit=limit,
            )
        kind = type(data).__name__
        named = field if field is not None else next(iter(keep_fields), None)
        if isinstance(data, Mapping):
            columns = ", ".join(map(repr, data))
            reason = f"a mapping is no data set; give one of its columns: {columns}"
            raise UnreadableData("documents", reason)
        if hasattr(data, "columns"):
            reason = f"a {kind} is no table that is read; give one of pandas, pyarrow or polars"
            raise UnreadableData("documents", reason)
        if named is not None:
            raise ValueError(f"field={named!r}: {kind} has no fields. Leave it out.")
        values = column_values(data)
        return _of_values(values, skip_bad_records).first(limit)

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __getitem__(self, document: int) -> str:
        return self.texts[document]

    def where(self, document: int) -> str:
        """Return how people find a document again."""
        given = self.source.startswith("the ")
        return f"document {document}" if given else f"{self.source}, document {document}"

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the texts, in order; the same whatever they were read from."""
        kind = b"messages" if self.are_messages else b"token ids" if self.are_token_ids else b""
        digest = hashlib.sha256(kind)
        for text in self.texts:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.hexdigest()

    @cached_property
    def fields_fingerprint(self) -> str | None:
        """The sha256 of the values that are kept; `None` where none are."""
        if not self.fields:
            return None
        digest = hashlib.sha256()
        for name, values in self.fields.items():
            digest.update(json.dumps(name).encode())
            for value in values:
                digest.update(json.dumps(value).encode() + b"\n")
        return digest.hexdigest()

    def first(self, count: int | None) -> "Documents":
        """Return the first so many; all where `count` is `None` or more than there are.

        Records that were left out count as such where they stand before the last one that is kept.
        """
        if count is None or count >= len(self):
            return self
        every = len(self) + len(self.empty) + len(self.bad)

        def documents_through(record: int) -> int:
            return record + 1 - bisect_right(self.empty, record) - bisect_right(self.bad, record)

        last = bisect_left(range(every), count, key=documents_through)
        return attrs.evolve(
            self,
            texts=_first(self.texts, count),
            empty=self.empty[: bisect_left(self.empty, last)],
            bad=self.bad[: bisect_left(self.bad, last)],
            fields={name: _first(values, count) for name, values in self.fields.items()},
        )

    def describe(self) -> dict[str, Any]:
        """Say what they are, in plain JSON values."""
        return {
            "source": self.source,
            "field": self.field,
            "count": len(self),
            "skipped_empty": self.skipped,
            "skipped_records": ranges(self.empty),
            "skipped_bad": len(self.bad),
            "bad_records": ranges(self.bad),
            "fields": list(self.fields),
            "fingerprint": self.fingerprint,
        }


def _first(values: Sequence[Any], count: int) -> Sequence[Any]:
    if isinstance(values, LazyTexts | LazyValues):
        return values.first(count)
    return values[:count]


def _of_values(values: Sequence[Any], skip_bad: bool) -> Documents:
    """Return what was given, without any table: texts, or conversations, or token ids."""
    if values and all(map(is_conversation, values)):
        made = [conversation_text(each, f"document {at}") for at, each in enumerate(values)]
        return Documents(made, source="the conversations given", are_messages=True)
    if values and all(map(is_ids, values)):
        made = [ids_text(each, f"document {at}") for at, each in enumerate(values)]
        return Documents(made, source="the token ids given", are_token_ids=True)
    if not skip_bad:
        return Documents(values)
    bad = [at for at, value in enumerate(values) if not _is_good(value)]
    gone = set(bad)
    good = [value for at, value in enumerate(values) if at not in gone]
    return Documents(good or values, bad=bad if good else ())


def _is_good(value: Any) -> bool:
    try:
        check_text(value if isinstance(value, str) else "\ud800", "")
    except UnreadableData:
        return False
    return True


def read_table(
    table: Table,
    *,
    field: str | None = None,
    keep_fields: Sequence[str] = (),
    skip_bad_records: bool = False,
    limit: int | None = None,
) -> Documents:
    """Return the documents of a table; see `Documents.of`."""
    found = document_field(table, field)
    records = TableRecords(table, found, keep_fields)
    return _found(records, found, table.name, keep_fields, skip_bad_records, limit)


def _found(
    records: Records,
    field: DocumentField,
    source: str,
    keep_fields: Sequence[str],
    skip_bad: bool,
    limit: int | None = None,
    *,
    named: bool = True,
) -> Documents:
    found = find_documents(records, field, keep_fields=keep_fields, skip_bad=skip_bad, limit=limit)
    return Documents(
        found.texts,
        source=source,
        field=field.name if named else None,
        empty=found.empty,
        bad=found.bad,
        fields=found.fields,
        are_messages=field.kind == "messages",
        are_token_ids=field.kind == "ids",
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
    return attrs.evolve(found, origin=attrs.evolve(how, name=absolute_name(name)))


def _read(how: DataName, sample_by: SampleBy | None) -> Documents:
    name = how.name
    if not name.strip() or "\0" in name:
        raise UnreadableData(repr(name), "this cannot name data")
    scheme, _ = split_scheme(name)
    path = Path(name).expanduser()
    if scheme is None or path.exists():
        if path.is_file():
            return _read_files([path], str(path), how, sample_by)
        if not path.exists() and _looks_like_a_file(name):
            raise NoSuchData(name, _near(path))
        if path.exists() and not path.is_dir():
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
        if path.is_file() and not hidden and not about and ending_of(path) in (*TEXT, *RECORDS):
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
    return _found(
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
    return [str(path.parent / name) for name in closest(path.name, names)] if names else []
