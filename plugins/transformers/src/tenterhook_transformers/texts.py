"""The texts of whatever a user calls a data set."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from typing import Any

from tenterhook_capture.conversations import MESSAGES, conversation_text, conversations
from tenterhook_capture.documents import (
    AT_ONCE,
    Documents,
    LazyTexts,
    UnknownField,
    UnreadableData,
    read_documents,
    texts_with_content,
)


def iterate_texts(dataset: Any, field: str | None = None) -> Iterator[Any]:
    """Yield the texts of a data set, one at a time; of conversations, their messages.

    It may be texts, `Documents`, a data set of Hugging Face, a name or path. Raises `UnknownField`
    and `UnreadableData` at once where the field is wrong, `ValueError` for a `field` of what has
    none; `TypeError` for what is no data set.
    """
    if isinstance(dataset, str | PathLike):
        dataset, field = read_documents(fspath(dataset), field=field), None
    if isinstance(dataset, Documents) and dataset.are_messages:
        return conversations(dataset.texts)
    if is_huggingface(dataset):
        found = text_field(dataset, field, "the data set")
        texts = _records(dataset, found)
        return conversations(texts) if found == MESSAGES else texts
    if isinstance(dataset, Mapping):
        columns = ", ".join(map(repr, dataset))
        raise TypeError(f"A mapping is no data set; pass one of its columns: {columns}.")
    if field is not None:
        raise ValueError(f"field={field!r}: {type(dataset).__name__} has no fields. Leave it out.")
    if not isinstance(dataset, Iterable):
        raise TypeError(
            f"{type(dataset).__name__} is no data set. Give texts, Documents, a data set of "
            "Hugging Face, or a name."
        )
    return iter(dataset)


def documents_of(dataset: Any, field: str | None = None, limit: int | None = None) -> Documents:
    """Return a data set, of any kind that `iterate_texts` takes, as `Documents`."""
    if isinstance(dataset, Documents) and field is None:
        return dataset.first(limit)
    if isinstance(dataset, str | PathLike):
        return read_documents(fspath(dataset), field=field).first(limit)
    if is_huggingface(dataset):
        name = _name(dataset)
        return read_records(dataset, text_field(dataset, field, name), name, limit=limit)
    return Documents.of(iterate_texts(dataset, field)).first(limit)


def is_huggingface(dataset: Any) -> bool:
    """Whether it is a data set of the `datasets` library, without importing that."""
    return hasattr(dataset, "column_names") and hasattr(dataset, "select_columns")


def read_records(dataset: Any, field: str, name: str, *, limit: int | None = None) -> Documents:
    """Return the texts of a field, up to `limit`; empty ones are left out and counted apart.

    A data set that finds its records by number is read again when texts are needed. The texts of a
    stream stay in memory.
    """
    if not hasattr(dataset, "num_rows"):
        texts, empty = texts_with_content(_records(dataset, field), limit)
        return Documents(
            texts, source=name, field=field, empty=empty, are_messages=field == MESSAGES
        )
    column = dataset.select_columns([field])
    rows, empty = array("q"), []
    for row, text in enumerate(_by_number(column, field)):
        if not text.strip():
            empty.append(row)
            continue
        rows.append(row)
        if len(rows) == limit:
            break

    def read(start: int, stop: int) -> list[str]:
        return _texts_at(column, field, rows[start:stop].tolist())

    found = LazyTexts(len(rows), read)
    chats = field == MESSAGES
    return Documents(found, source=name, field=field, empty=empty, are_messages=chats)


def text_field(dataset: Any, field: str | None, name: str) -> str:
    """Return the field that holds the text: the one asked for, `text`, or the only one of text.

    A column `messages` holds conversations, and is taken where there is no `text`.

    Raises `UnknownField`, `UnreadableData`.
    """
    if isinstance(dataset.column_names, Mapping):
        splits = list(dataset.column_names)
        raise UnreadableData(name, f"this has splits; pass one of them, as dataset[{splits[0]!r}]")
    columns: list[str] = list(dataset.column_names or _first(dataset))
    texts = [column for column in columns if _holds_text(dataset, column)]
    if field is not None:
        if field not in columns:
            raise UnknownField(field, columns, name)
        if field not in texts and field != MESSAGES:
            raise UnreadableData(name, f"field {field!r} holds no text; {_shown(texts)} do")
        return field
    if "text" in texts:
        return "text"
    if MESSAGES in columns:
        return MESSAGES
    if len(texts) == 1:
        return texts[0]
    raise UnreadableData(name, f"say which field is the text (field, --field): {_shown(texts)}")


def _records(dataset: Any, field: str) -> Iterator[str]:
    """Yield the field of every record; a missing value is an empty text."""
    for record in dataset.select_columns([field]):
        yield _as_text(record[field], field)


def _by_number(column: Any, field: str) -> Iterator[str]:
    for start in range(0, column.num_rows, AT_ONCE):
        stop = min(start + AT_ONCE, column.num_rows)
        yield from _texts_at(column, field, list(range(start, stop)))


def _texts_at(column: Any, field: str, rows: list[int]) -> list[str]:
    """Return the field of some records; a missing value is an empty text."""
    follow = bool(rows) and rows[-1] - rows[0] == len(rows) - 1
    found = column[slice(rows[0], rows[-1] + 1) if follow else rows][field]
    return [_as_text(text, field) for text in found]


def _as_text(value: Any, field: str) -> str:
    if not value:
        return ""
    if field == MESSAGES and not isinstance(value, str):
        return conversation_text(value, f"field {field!r}")
    return str(value)


def _holds_text(dataset: Any, column: str) -> bool:
    if dataset.features is None:  # a stream that does not say
        return isinstance(_first(dataset).get(column), str)
    return getattr(dataset.features[column], "dtype", None) in ("string", "large_string")


def _first(dataset: Any) -> dict[str, Any]:
    first: dict[str, Any] = next(iter(dataset), {})
    return first


def _shown(fields: list[str]) -> str:
    return ", ".join(map(repr, fields)) or "no field of it is text"


def _name(dataset: Any) -> str:
    name = getattr(getattr(dataset, "info", None), "dataset_name", None) or "a data set"
    split = getattr(dataset, "split", None)
    return f"{name}:{split}" if split else str(name)
