"""Documents: texts in order, and what they are; made of what a user gives.

Texts, conversations, token ids and tables. What is read by a name is `named_documents`' to find.
"""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import merge
from itertools import count
from typing import Any

import attrs

from tenterhook_capture.conversations import conversation_text, is_conversation
from tenterhook_capture.document_errors import NoDocuments, UnreadableData
from tenterhook_capture.id_lists import ids_text, is_ids, parse_ids
from tenterhook_capture.lazy_texts import LazyTexts, LazyValues
from tenterhook_capture.records import (
    DocumentField,
    Records,
    check_text,
    find_documents,
)
from tenterhook_capture.spilled import NumberColumn, Numbers
from tenterhook_capture.tables import (
    Table,
    TableRecords,
    as_table,
    column_values,
    document_field,
)
from tenterhook_store import ranges


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
    origin: Any = attrs.field(default=None, kw_only=True)
    """The `DataName` that `read_documents` read them by; `None` for texts that were given."""
    are_messages: bool = attrs.field(default=False, kw_only=True)
    """Whether each is a conversation: its messages as JSON, which the model's chat template makes
    text of."""
    are_token_ids: bool = attrs.field(default=False, kw_only=True)
    """Whether each is token ids, as JSON, which the model reads as they are."""
    skips_bad: bool = attrs.field(default=False, kw_only=True)
    """Whether those are left out that cannot be read; token ids that a model does not have, once
    it is known which model that is: `known_to`."""

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
        keep_fields = (keep_fields,) if isinstance(keep_fields, str) else keep_fields
        table = as_table(data)
        if table is not None:
            return read_table(
                table,
                # Columns of a DataFrame may be numbers; they are known by how they are written.
                field=None if field is None else str(field),
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
        if not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
            reason = f"a {kind} is none; give texts, conversations, token ids or a table"
            raise UnreadableData("documents", reason)
        values = column_values(data)
        found = attrs.evolve(_of_values(values, skip_bad_records), skips_bad=skip_bad_records)
        return found.first(limit)

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __getitem__(self, document: int) -> str:
        return self.texts[document]

    def where(self, document: int) -> str:
        """Return how people find a document again; of records in files, those are gone through."""
        found = self.texts.where(document) if isinstance(self.texts, LazyTexts) else None
        if found is not None:
            return found
        given = self.source.startswith("the ")
        return f"document {document}" if given else f"{self.source}, document {document}"

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the texts, in order; the same whatever they were read from."""
        return self._hashed[0]

    @property
    def hashes(self) -> NumberColumn:
        """A hash of each text, 64 bits: of two runs, which of their documents are the same."""
        return self._hashed[1]

    @cached_property
    def _hashed(self) -> tuple[str, NumberColumn]:
        kind = b"messages" if self.are_messages else b"token ids" if self.are_token_ids else b""
        digest, each = hashlib.sha256(kind), Numbers("q")
        for text in self.texts:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
            own = hashlib.blake2b(content, digest_size=8, person=kind).digest()
            each.extend((int.from_bytes(own, "little", signed=True),))
        return digest.hexdigest(), each

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

    def known_to(self, vocabulary: int | None) -> "Documents":
        """Return them without those that have a token id of `vocabulary` or more.

        All where they are no token ids, or what is bad is not left out, or none is any good.
        """
        if vocabulary is None or not (self.are_token_ids and self.skips_bad):
            return self
        good, gone = Numbers("q"), Numbers("q")
        for at, (record, text) in enumerate(zip(self._records(), self.texts, strict=False)):
            if max(parse_ids(text), default=0) < vocabulary:
                good.extend([at])
            else:
                gone.extend([record])
        if not good or not gone:
            return self
        return attrs.evolve(
            self,
            texts=_at(self.texts, good),
            bad=sorted((*self.bad, *gone)),
            fields={name: _at(values, good) for name, values in self.fields.items()},
        )

    def _records(self) -> Iterator[int]:
        """Yield the number of each document's record, of those that were left out too."""
        left_out = merge(self.empty, self.bad)
        gone = next(left_out, None)
        for record in count():
            if record == gone:
                gone = next(left_out, None)
            else:
                yield record

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


def _at(values: Sequence[Any], numbers: Sequence[int]) -> Sequence[Any]:
    if isinstance(values, LazyTexts | LazyValues):
        return values.at(numbers)
    return tuple(values[number] for number in numbers)


def _of_values(values: Sequence[Any], skip_bad: bool) -> Documents:
    """Return what was given, without any table: texts, or conversations, or token ids."""
    if any(map(is_conversation, values)) and all(map(_may_be_conversation, values)):
        return _of_conversations(values, skip_bad)
    if values and all(map(is_ids, values)):
        made = [ids_text(each, f"document {at}") for at, each in enumerate(values)]
        return Documents(made, source="the token ids given", are_token_ids=True)
    if not skip_bad:
        return Documents(values)
    bad = [at for at, value in enumerate(values) if not _is_good(value)]
    gone = set(bad)
    good = [value for at, value in enumerate(values) if at not in gone]
    return Documents(good or values, bad=bad if good else ())


def _may_be_conversation(value: Any) -> bool:
    return is_conversation(value) or (isinstance(value, list | tuple) and not value)


def _of_conversations(values: Sequence[Any], skip_bad: bool) -> Documents:
    """Return conversations, of which those without a message are left out and counted."""
    empty = [at for at, value in enumerate(values) if not value]
    texts = {
        at: conversation_text(value, f"document {at}") for at, value in enumerate(values) if value
    }
    bad = [at for at, text in texts.items() if not _is_good(text)] if skip_bad else []
    if len(bad) == len(texts):
        bad = []  # none is any good, and what is wrong with the first is told
    gone = set(bad)
    good = [text for at, text in texts.items() if at not in gone]
    return Documents(
        good, source="the conversations given", empty=empty, bad=bad, are_messages=True
    )


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
    return documents_of(records, found, table.name, keep_fields, skip_bad_records, limit)


def documents_of(
    records: Records,
    field: DocumentField,
    source: str,
    keep_fields: Sequence[str],
    skip_bad: bool,
    limit: int | None = None,
    *,
    named: bool = True,
) -> Documents:
    """Return the documents that records hold in a field; `named` says whether that has a name."""
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
        skips_bad=skip_bad,
    )
