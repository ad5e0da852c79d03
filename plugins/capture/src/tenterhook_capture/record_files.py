"""Files of records: JSON lines, a JSON list, CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tenterhook_capture.conversations import MESSAGES, is_conversation
from tenterhook_capture.data_files import DataFile
from tenterhook_capture.document_errors import UnreadableData
from tenterhook_capture.id_lists import IDS, is_ids
from tenterhook_capture.records import Record, ScannedRecord
from tenterhook_capture.text_files import MARK, Line, decode, read_spans, split_lines

LONGEST = 1 << 30
"""Characters that a field of a CSV file may have; Python's own limit, for all, is 131,072."""


def json_records(file: DataFile) -> "JsonLines | JsonList":
    """Return the records of a file of JSON lines, or of one list."""
    for line in split_lines(file):
        if found := line.content.strip():
            return JsonList(file) if found.startswith(b"[") else JsonLines(file)
    return JsonLines(file)


class JsonLines:
    """A JSON object on each line; empty lines are none."""

    width = 2

    def __init__(self, file: DataFile) -> None:
        self._file = file

    def __str__(self) -> str:
        return str(self._file)

    def scan(self) -> Iterator[ScannedRecord]:
        """Yield them; each is parsed when it is read."""
        for line in split_lines(self._file):
            if line.content.strip():
                where = f"{self._file}, line {line.number}"
                place = line.start, line.stop
                yield ScannedRecord(place, where, partial(_line_record, line, where))

    def at(self, places: Sequence[tuple[int, ...]]) -> list[Record]:
        """Read some again."""
        found = read_spans(self._file, places)
        return [
            _record(decode(content, place[0], str(self)), str(self))
            for place, content in zip(places, found, strict=True)
        ]


class JsonList:
    """One JSON list, which is in memory as a whole.

    Of objects, or of what a field of theirs would hold: texts, conversations, lists of token ids.
    """

    width = 1

    def __init__(self, file: DataFile) -> None:
        self._file = file
        self._records: list[Any] | None = None

    def __str__(self) -> str:
        return str(self._file)

    def scan(self) -> Iterator[ScannedRecord]:
        """Yield the objects."""
        for number, value in enumerate(self._all()):
            where = f"{self._file}, record {number + 1}"
            yield ScannedRecord((number,), where, partial(_list_record, value, where))

    def at(self, places: Sequence[tuple[int, ...]]) -> list[Record]:
        """Return some again."""
        records = self._all()
        return [_list_record(records[number], str(self)) for (number,) in places]

    def release(self) -> None:
        """Have nothing of it in memory."""
        self._records = None

    def _all(self) -> list[Any]:
        if self._records is None:
            with self._file.open() as opened:
                content = opened.read().removeprefix(MARK)
            found: list[Any] = _json(decode(content, 0, str(self)), str(self))
            self._file.check_unchanged()
            self._records = found
        return self._records


class CsvRecords:
    """The rows of a table in CSV, or with tabs, whose first row names the fields."""

    width = 2

    def __init__(self, file: DataFile) -> None:
        """Raise `UnreadableData` where the first row names no fields."""
        self._file = file
        self._separator = "\t" if file.ending == ".tsv" else ","
        self.fields: list[str] = []
        for _, _, row in self._rows():
            self.fields = row if isinstance(row, list) else []
            break
        twice = sorted({each for each in self.fields if self.fields.count(each) > 1})
        if not any(self.fields) or twice:
            why = f"names {twice[0]!r} twice" if twice else "names no fields"
            raise UnreadableData(f"{file}, line 1", f"the first row {why}")

    def __str__(self) -> str:
        return str(self._file)

    def scan(self) -> Iterator[ScannedRecord]:
        """Yield the rows after the first; empty lines are none."""
        rows = self._rows()
        next(rows, None)
        for line, span, row in rows:
            where = f"{self._file}, line {line}"
            if row != []:
                yield ScannedRecord(span, where, partial(self._record, row, where))

    def at(self, places: Sequence[tuple[int, ...]]) -> list[Record]:
        """Read some again."""
        found = []
        for content in read_spans(self._file, places):
            lines = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
            found.append(self._record(next(self._parse(lines)), str(self)))
        return found

    def _parse(self, lines: Iterator[str]) -> Any:
        if csv.field_size_limit() < LONGEST:
            csv.field_size_limit(LONGEST)
        return csv.reader(lines, delimiter=self._separator, strict=True)

    def _rows(self) -> Iterator[tuple[int, tuple[int, int], list[str] | csv.Error]]:
        """Yield each row with its first line and its bytes; an error in the place of the last."""
        start, stop, number = 0, 0, 1
        with self._file.open() as opened:
            if opened.read(len(MARK)) == MARK:
                start = stop = len(MARK)
            opened.seek(start)

            def lines() -> Iterator[str]:
                nonlocal stop
                for line in opened:
                    stop += len(line)
                    yield line.decode("utf-8", "surrogateescape")

            rows = self._parse(lines())
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield number, (start, stop), error
                    if "end of data" in str(error):
                        return
                    row = None
                if row is not None:
                    yield number, (start, stop), row
                start, number = stop, rows.line_num + 1

    def _record(self, row: list[str] | csv.Error, where: str) -> Record:
        if isinstance(row, csv.Error):
            raise UnreadableData(where, f"this is no CSV: {row}")
        if len(row) != len(self.fields):
            expected = f"the first row names {len(self.fields)} fields"
            raise UnreadableData(where, f"this row has {len(row)} fields, and {expected}")
        for name, value in zip(self.fields, row, strict=True):
            if any("\udc80" <= letter <= "\udcff" for letter in value):
                raise UnreadableData(where, f"field {name!r} is not UTF-8")
        return dict(zip(self.fields, row, strict=True))


def default_field(record: Record) -> str:
    """Return the field that holds the documents if nobody says.

    `text`, `messages` or `input_ids`, whichever comes first; the only one, where there is one.
    """
    for name in ("text", MESSAGES, IDS):
        if name in record:
            return name
    return next(iter(record)) if len(record) == 1 else "text"


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableData(where, f"this is no JSON: {error}") from None
    except RecursionError:
        raise UnreadableData(where, "this JSON is nested too deep") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise UnreadableData(where, f"this JSON cannot be read: {error}") from None


def _line_record(line: Line, where: str) -> Record:
    return _record(decode(line.content, line.start, where), where)


def _record(text: str, where: str) -> Record:
    return _checked(_json(text, where), where)


def _list_record(value: Any, where: str) -> Record:
    """Return what stands in a list as a record, also where it is a document by itself."""
    if isinstance(value, str):
        return {"text": value}
    if is_conversation(value):
        return {MESSAGES: value}
    return {IDS: value} if is_ids(value) else _checked(value, where)


def _checked(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UnreadableData(where, f"this is a {kind}, and each record must be an object")
    return value
