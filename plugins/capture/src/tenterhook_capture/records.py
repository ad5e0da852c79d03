"""Records as documents: which field is the document, which are kept, which records are left out.

Records are gone through once, to find the documents among them and what is wrong with the others.
What is kept of them is where each document is; texts and fields are read when they are asked for.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

from tenterhook_capture.conversations import MESSAGES, conversation_text, is_conversation
from tenterhook_capture.document_errors import UnknownField, UnreadableData
from tenterhook_capture.id_lists import IDS, MASK, as_list, ids_text, is_ids
from tenterhook_capture.lazy_texts import LazyTexts, LazyValues
from tenterhook_capture.spilled import Numbers

Record = Mapping[str, Any]
Kind = Literal["text", "messages", "ids"]


@attrs.frozen(eq=False)
class ScannedRecord:
    """A record that was come by."""

    place: tuple[int, ...]
    """Where it is found again; as many numbers as the records' `width`."""
    where: str
    """Where people find it."""
    read: Callable[[], Record]
    """Returns it; raises `UnreadableData` where it is none."""


class Records(Protocol):
    """Records in an order, that can be read again."""

    @property
    def width(self) -> int:
        """How many numbers say where a record is."""

    def scan(self) -> Iterator[ScannedRecord]:
        """Yield all of them, in order."""

    def at(self, places: Sequence[tuple[int, ...]]) -> list[Record]:
        """Read those that are at some places again; `UnreadableData` where they were changed."""


@attrs.frozen
class DocumentField:
    """The field that holds the documents, and what they are."""

    name: str
    kind: Kind

    @classmethod
    def of(cls, name: str, value: Any) -> "DocumentField":
        """Return the field of a name, of which one value is known, or `None`."""
        if name == MESSAGES or is_conversation(value):
            return cls(name, "messages")
        return cls(name, "ids" if name == IDS or (value and is_ids(value)) else "text")

    def text_of(self, record: Record, where: str) -> str:
        """Return a record's document as text; empty where it has none.

        Raises `UnknownField`, `UnreadableData`.
        """
        if self.name not in record:
            raise UnknownField(self.name, list(record), where)
        value = record[self.name]
        if value is None:
            return ""
        if self.kind == "text":
            if not isinstance(value, str):
                kind = type(value).__name__
                reason = f"field {self.name!r} holds a {kind}, and must hold text"
                raise UnreadableData(where, reason)
            check_text(value, where)
            return value
        value = as_list(_from_json(value, self.name, where))
        if not len(value):
            return ""
        if self.kind == "messages":
            text = conversation_text(value, where)
            check_text(text, where)
            return text
        mask = record.get(MASK) if self.name == IDS else None
        found = ids_text(value, where, _from_json(mask, MASK, where))
        return "" if found == "[]" else found


def check_text(text: str, where: str) -> None:
    """Raise `UnreadableData` for text that no tokenizer can encode, half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UnreadableData(
            where,
            f"character {error.start} is {half}, half of a surrogate pair, which cannot be "
            "encoded. Mend it, or leave such records out: --skip-bad-records "
            "(skip_bad_records=True)",
        ) from None


def kept_value(record: Record, field: str, where: str) -> Any:
    """Return the value of a field that is kept; `None` where the record has none.

    Raises `UnreadableData` for a value that is no text, number, true or false.
    """
    value = record.get(field)
    as_python = getattr(value, "item", None)  # of a number of numpy
    if callable(as_python) and getattr(value, "ndim", 1) == 0:
        value = as_python()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise UnreadableData(
        where,
        f"field {field!r} holds a {type(value).__name__}; text, numbers, true, false and null can "
        "be kept",
    )


@attrs.frozen(eq=False, kw_only=True)
class FoundDocuments:
    """What was found in records."""

    texts: Sequence[str]
    empty: Sequence[int]
    """The numbers of the records that are empty, from 0 and rising."""
    bad: Sequence[int]
    """And of those that cannot be read."""
    fields: Mapping[str, Sequence[Any]]
    """The values that are kept, one a document."""


def find_documents(
    records: Records,
    field: DocumentField,
    *,
    keep_fields: Sequence[str] = (),
    skip_bad: bool = False,
    limit: int | None = None,
) -> FoundDocuments:
    """Go through records once; read no further than the last document that is wanted.

    A record that is none, lacks the field, or holds what cannot be encoded is left out with
    `skip_bad`, and raises `UnreadableData` or `UnknownField` otherwise; so does the first of them
    where no record is any good.
    """
    places, empty, bad = Numbers("q"), Numbers("q"), Numbers("q")
    first_bad: UnreadableData | UnknownField | None = None
    seen: dict[str, bool] = dict.fromkeys(keep_fields, False)
    known: tuple[str, ...] = ()
    count = 0
    for number, scanned in enumerate(records.scan()):
        try:
            record = scanned.read()
            text = field.text_of(record, scanned.where)
            for name in keep_fields:
                kept_value(record, name, scanned.where)
        except (UnreadableData, UnknownField) as error:
            if not skip_bad:
                raise
            first_bad = first_bad or error
            bad.extend([number])
            continue
        known = known or tuple(record)
        for name in keep_fields:
            seen[name] = seen[name] or name in record
        if not text.strip():
            empty.extend([number])
            continue
        places.extend(scanned.place)
        count += 1
        if count == limit:
            break
    if first_bad is not None and not count:
        raise first_bad
    for name, is_there in seen.items():
        if not is_there and count:
            raise UnknownField(name, known, str(records))
    width = records.width

    def at(start: int, stop: int) -> list[Record]:
        flat = places[width * start : width * stop]
        return records.at([tuple(flat[i : i + width]) for i in range(0, len(flat), width)])

    def texts(start: int, stop: int) -> list[str]:
        return [field.text_of(record, str(records)) for record in at(start, stop)]

    def values(name: str) -> LazyValues:
        return LazyValues(
            count,
            lambda start, stop: [
                kept_value(record, name, str(records)) for record in at(start, stop)
            ],
        )

    def where(number: int) -> str:
        place = tuple(places[width * number : width * (number + 1)])
        found = (each.where for each in records.scan() if each.place == place)
        return next(found, str(records))

    return FoundDocuments(
        texts=LazyTexts(count, texts, where),
        empty=empty,
        bad=bad,
        fields={name: values(name) for name in keep_fields},
    )


class JoinedRecords:
    """The records of several, one after the other."""

    def __init__(self, parts: Sequence[Records], name: str) -> None:
        self._parts = parts
        self._name = name
        self._latest: Records | None = None
        """Which was read last: it alone may have something of its records in memory."""

    def __str__(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        """One more than that of the widest."""
        return 1 + max(part.width for part in self._parts)

    def scan(self) -> Iterator[ScannedRecord]:
        """Yield those of each."""
        for number, part in enumerate(self._parts):
            rest = (0,) * (self.width - 1 - part.width)
            for scanned in self._turn_to(part).scan():
                yield attrs.evolve(scanned, place=(number, *scanned.place, *rest))

    def at(self, places: Sequence[tuple[int, ...]]) -> list[Record]:
        """Read them, those of one part at once."""
        found: list[Record] = []
        start = 0
        while start < len(places):
            number = places[start][0]
            stop = start
            while stop < len(places) and places[stop][0] == number:
                stop += 1
            part = self._parts[number]
            found += self._turn_to(part).at(
                [place[1 : 1 + part.width] for place in places[start:stop]]
            )
            start = stop
        return found

    def _turn_to(self, part: Records) -> Records:
        latest, self._latest = self._latest, part
        release = getattr(latest, "release", None)
        if latest is not part and release is not None:
            release()
        return part


def _from_json(value: Any, field: str, where: str) -> Any:
    """Return a value; of text, as a column of a table has it, what its JSON says."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else []
    except (ValueError, RecursionError) as error:
        raise UnreadableData(where, f"field {field!r} is no JSON: {error}") from None
