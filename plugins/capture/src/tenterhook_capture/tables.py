"""Tables as records: of pandas, pyarrow, polars and `datasets`, and files of Parquet.

A table is never gone through as it is: iterating a DataFrame gives the names of its columns. What
is known here of a table is which columns it has and how some of its rows are read, so no library
is imported for one that is given.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from tenterhook_capture.conversations import MESSAGES
from tenterhook_capture.data_files import DataFile
from tenterhook_capture.document_errors import NoDocuments, UnknownField, UnreadableData
from tenterhook_capture.id_lists import IDS, MASK, as_list
from tenterhook_capture.lazy_texts import AT_ONCE
from tenterhook_capture.records import DocumentField, Record, ScannedRecord

ROWS_LOOKED_AT = 1024
"""Rows that are looked at for a value which says what a column holds."""


class Table(Protocol):
    """Rows of columns with names."""

    name: str
    """What people call it."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of its columns."""

    @property
    def count(self) -> int | None:
        """How many rows it has; `None` for a stream, which nobody can read again."""

    def only(self, columns: Sequence[str]) -> "Table":
        """Return the table with some of its columns."""

    def rows(self, numbers: Sequence[int]) -> list[Record]:
        """Return some rows, in the order asked for."""

    def stream(self) -> Iterator[Record]:
        """Yield all rows."""

    def holds_text(self, column: str) -> bool:
        """Whether a column's values are text."""


def as_table(value: Any) -> Table | None:
    """Return a table that was given as one, `None` for what is none.

    Tables are those of pandas, pyarrow, polars and `datasets`; and lists of records.
    """
    if hasattr(value, "column_names") and hasattr(value, "select_columns"):
        return _Datasets(value)
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        return _Pandas(value)
    if hasattr(value, "column_names") and hasattr(value, "to_pylist"):
        return _Arrow(value)
    if hasattr(value, "columns") and hasattr(value, "to_dicts"):
        return _Polars(value)
    if isinstance(value, Mapping) and IDS in value:  # what a tokenizer returns
        return _Records(_rows_of(value))
    if isinstance(value, list | tuple) and value and all(map(_is_record, value)):
        return _Records(value)
    return None


def column_values(values: Any) -> tuple[Any, ...]:
    """Return values that were given one after another, or in a column of a table."""
    if hasattr(values, "to_pylist"):
        return tuple(values.to_pylist())
    if hasattr(values, "iloc"):
        return tuple(_pandas_values(values))
    return tuple(as_list(values))


def document_field(table: Table, field: str | None) -> DocumentField:
    """Return the column that holds the documents: the one asked for, `text`, or the only one.

    A column `messages` holds conversations and `input_ids` token ids; they are taken where there is
    no `text`. Raises `UnknownField`, `UnreadableData`.
    """
    columns = list(table.columns)
    texts = [column for column in columns if table.holds_text(column)]
    if field is not None:
        if field not in columns:
            raise UnknownField(field, columns, table.name)
        found = DocumentField.of(field, None if field in texts else _first_value(table, field))
        if found.kind == "text" and field not in texts:
            raise UnreadableData(table.name, f"field {field!r} holds no text; {shown(texts)} do")
        return found
    for name in ("text", MESSAGES, IDS):
        if name in (texts if name == "text" else columns):
            return DocumentField.of(name, None)
    if len(texts) == 1:
        return DocumentField.of(texts[0], None)
    if table.count == 0:
        raise NoDocuments(table.name, 0)
    raise UnreadableData(
        table.name, f"say which field is the text (field, --field): {shown(texts)}"
    )


def shown(fields: Sequence[str]) -> str:
    """Return names of fields as an error has them."""
    return ", ".join(map(repr, fields)) or "no field of it is text"


class TableRecords:
    """The rows of a table, read again by their numbers."""

    width = 1

    def __init__(self, table: Table, field: DocumentField, keep_fields: Sequence[str] = ()) -> None:
        """Raise `UnknownField` where the table has no column of a name."""
        for name in keep_fields:
            if name not in table.columns:
                raise UnknownField(name, tuple(table.columns), table.name)
        masks = [MASK] if field.name == IDS and MASK in table.columns else []
        wanted = dict.fromkeys([field.name, *keep_fields, *masks])
        self._table = table.only([*wanted])
        self._kept: list[Record] = []
        """Of a stream, the rows that were read."""

    def __str__(self) -> str:
        return self._table.name

    def scan(self) -> Iterator[ScannedRecord]:
        """Yield the rows; of a stream they stay in memory."""
        for number, record in enumerate(self._rows()):
            if self._table.count is None:
                self._kept.append(record)
            where = f"{self._table.name}, row {number}"
            yield ScannedRecord((number,), where, partial(_as_it_is, record))

    def at(self, places: Sequence[tuple[int, ...]]) -> list[Record]:
        """Read some again."""
        if self._table.count is None:
            return [self._kept[number] for (number,) in places]
        return self._table.rows([number for (number,) in places]) if places else []

    def release(self) -> None:
        """Have nothing in memory of a table that is read from a file."""
        if isinstance(self._table, ParquetTable):
            self._table.release()

    def _rows(self) -> Iterator[Record]:
        count = self._table.count
        if count is None:
            yield from self._table.stream()
            return
        for start in range(0, count, AT_ONCE):
            yield from self._table.rows(range(start, min(start + AT_ONCE, count)))


def _as_it_is(record: Record) -> Record:
    return record


def _first_value(table: Table, column: str) -> Any:
    """Return the first value that is one, among the first rows."""
    only = table.only([column])
    if only.count is None:
        return next((row[column] for row in only.stream()), None)
    rows = only.rows(range(min(ROWS_LOOKED_AT, only.count)))
    return next((row[column] for row in rows if row.get(column) is not None), None)


# --- tables that are given


class _Datasets:
    """A data set of the `datasets` library, or a stream of one."""

    def __init__(self, dataset: Any) -> None:
        # As it formats its rows (pandas, arrow, torch) they would not be values of Python.
        with_format = getattr(dataset, "with_format", None)
        self._dataset = dataset if with_format is None else with_format(None)
        name = getattr(getattr(dataset, "info", None), "dataset_name", None) or "a data set"
        split = getattr(dataset, "split", None)
        self.name = f"{name}:{split}" if split else str(name)
        if isinstance(dataset.column_names, Mapping):
            splits = list(dataset.column_names)
            why = f"this has splits; pass one of them, as dataset[{splits[0]!r}]"
            raise UnreadableData(self.name, why)
        self.columns: list[str] = list(dataset.column_names or self._first())
        self.count: int | None = getattr(dataset, "num_rows", None)

    def only(self, columns: Sequence[str]) -> Table:
        found = _Datasets(self._dataset.select_columns(list(columns)))
        found.name, found.columns = self.name, list(columns)
        return found

    def rows(self, numbers: Sequence[int]) -> list[Record]:
        follow = numbers[-1] - numbers[0] == len(numbers) - 1
        found = self._dataset[slice(numbers[0], numbers[-1] + 1) if follow else list(numbers)]
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]

    def stream(self) -> Iterator[Record]:
        return iter(self._dataset)

    def holds_text(self, column: str) -> bool:
        if self._dataset.features is None:  # a stream that does not say
            return isinstance(self._first().get(column), str)
        kind = getattr(self._dataset.features[column], "dtype", None)
        return kind in ("string", "large_string")

    def _first(self) -> dict[str, Any]:
        found: dict[str, Any] = next(iter(self._dataset), {})
        return found


class _Sliced(ABC):
    """A table whose rows are taken by slices: what the others here share."""

    def __init__(self, table: Any, name: str, columns: Sequence[Any], count: int) -> None:
        self._given = table
        self.name = name
        self.columns = [str(column) for column in columns]
        self.count: int | None = count
        if len(set(self.columns)) < len(self.columns):
            raise UnreadableData(name, f"two of its columns have one name: {self.columns}")

    def rows(self, numbers: Sequence[int]) -> list[Record]:
        """Return some rows: those from the first to the last are read at once, if they are few."""
        first, last = min(numbers), max(numbers)
        if last - first < 4 * len(numbers) + AT_ONCE:
            found = self._slice(first, last + 1)
            return [found[number - first] for number in numbers]
        return [self._slice(number, number + 1)[0] for number in numbers]

    def stream(self) -> Iterator[Record]:
        for start in range(0, self.count or 0, AT_ONCE):
            yield from self._slice(start, start + AT_ONCE)

    def holds_text(self, column: str) -> bool:
        rows = self.only([column])._slice(0, ROWS_LOOKED_AT)
        return isinstance(next((r[column] for r in rows if r.get(column) is not None), None), str)

    @abstractmethod
    def only(self, columns: Sequence[str]) -> Any:
        """Return the table with some of its columns."""

    @abstractmethod
    def _slice(self, start: int, stop: int) -> list[Record]:
        """Return the rows from one to another, as many of them as there are."""


class _Pandas(_Sliced):
    def __init__(self, frame: Any, name: str = "the DataFrame given") -> None:
        super().__init__(frame, name, list(frame.columns), len(frame))

    def only(self, columns: Sequence[str]) -> Any:
        places = [self.columns.index(column) for column in columns]
        return _Pandas(self._given.iloc[:, places], self.name)

    def _slice(self, start: int, stop: int) -> list[Record]:
        part = self._given.iloc[start:stop]
        columns = [_pandas_values(part.iloc[:, at]) for at in range(len(self.columns))]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _pandas_values(column: Any) -> list[Any]:
    """Return a column's values; those that are missing as `None`, and NaN among floats as NaN."""
    values: list[Any] = column.tolist()
    if column.dtype.kind == "f":
        return values
    return [None if gone else value for value, gone in zip(values, column.isna(), strict=True)]


class _Arrow(_Sliced):
    def __init__(self, table: Any, name: str = "the table given") -> None:
        super().__init__(table, name, table.column_names, table.num_rows)

    def only(self, columns: Sequence[str]) -> Any:
        return _Arrow(self._given.select(list(columns)), self.name)

    def _slice(self, start: int, stop: int) -> list[Record]:
        found: list[Record] = self._given.slice(start, stop - start).to_pylist()
        return found


class _Polars(_Sliced):
    def __init__(self, frame: Any, name: str = "the DataFrame given") -> None:
        super().__init__(frame, name, frame.columns, len(frame))

    def only(self, columns: Sequence[str]) -> Any:
        return _Polars(self._given.select(list(columns)), self.name)

    def _slice(self, start: int, stop: int) -> list[Record]:
        found: list[Record] = self._given.slice(start, stop - start).to_dicts()
        return found


class _Records(_Sliced):
    """A list of records."""

    def __init__(self, records: Sequence[Record], columns: Sequence[str] | None = None) -> None:
        names = dict.fromkeys(str(name) for record in records for name in record)
        super().__init__(records, "the records given", columns or list(names), len(records))

    def only(self, columns: Sequence[str]) -> Any:
        return _Records(self._given, columns)

    def _slice(self, start: int, stop: int) -> list[Record]:
        rows: Sequence[Record] = self._given[start:stop]
        return [{name: row[name] for name in self.columns if name in row} for row in rows]


def _is_record(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" not in value


def _rows_of(columns: Mapping[str, Any]) -> list[Record]:
    """Return the rows of columns by name, those that are as long as the token ids."""
    count = len(columns[IDS])
    even = {name: each for name, each in columns.items() if hasattr(each, "__len__")}
    names = [name for name, each in even.items() if len(each) == count]
    return [{name: even[name][at] for name in names} for at in range(count)]


# --- files of tables


class ParquetTable(_Sliced):
    """A file of Parquet. One of its row groups is in memory at a time."""

    def __init__(self, file: DataFile, columns: Sequence[str] | None = None) -> None:
        """Raise `UnreadableData` where it is none, `ImportError` where pyarrow is missing."""
        self._file = file
        self._pyarrow = _pyarrow()
        self._meta: Any = None
        with self._opened() as parquet:
            self._meta, names = parquet.metadata, parquet.schema_arrow.names
        self._group: tuple[int, Any] = (-1, None)
        self._starts = [0]
        for group in range(self._meta.num_row_groups):
            self._starts.append(self._starts[-1] + self._meta.row_group(group).num_rows)
        super().__init__(None, str(file), columns or names, self._meta.num_rows)

    def only(self, columns: Sequence[str]) -> Any:
        """Return the table with some of its columns."""
        return ParquetTable(self._file, columns)

    def release(self) -> None:
        """Have none of its groups of rows in memory."""
        self._group = -1, None

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        reason = "this is no Parquet file"
        try:
            with self._file.open() as opened:
                yield importlib.import_module("pyarrow.parquet").ParquetFile(
                    opened, metadata=self._meta
                )
        except (self._pyarrow.ArrowException, OSError) as error:
            if self._meta is not None:
                reason = "it is damaged"
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnreadableData(str(self._file), f"{reason}: {line}") from None

    def _slice(self, start: int, stop: int) -> list[Record]:
        self._file.check_unchanged()
        found: list[Record] = []
        for group in range(len(self._starts) - 1):
            first, last = self._starts[group], self._starts[group + 1]
            if first < stop and start < last:
                table = self._read(group)
                own = slice(max(start - first, 0), min(stop, last) - first)
                found += table.slice(own.start, own.stop - own.start).to_pylist()
        return found

    def _read(self, group: int) -> Any:
        known, table = self._group
        if known != group:
            with self._opened() as parquet:
                table = parquet.read_row_group(group, columns=list(self.columns))
            self._group = group, table
        return table


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError:
        raise ImportError(
            "Files of Parquet need pyarrow: `pip install 'tenterhook-capture[parquet]'`.",
            name="pyarrow",
        ) from None
