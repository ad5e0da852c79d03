"""The texts of whatever a user calls a data set."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from tenterhook_capture.conversations import conversations
from tenterhook_capture.documents import Documents, read_documents
from tenterhook_capture.tables import Table, TableRecords, as_table, column_values, document_field


def iterate_texts(dataset: Any, field: str | None = None) -> Iterator[Any]:
    """Yield the texts of a data set, one at a time; of conversations, their messages.

    It may be texts, `Documents`, a table or data set of Hugging Face, a name or path. Raises
    `UnknownField` and `UnreadableData` at once where the field is wrong, `ValueError` for a `field`
    of what has none; `TypeError` for what is no data set, and for token ids.
    """
    if isinstance(dataset, str | PathLike):
        dataset, field = read_documents(fspath(dataset), field=field), None
    if isinstance(dataset, Documents):
        if dataset.are_token_ids:
            raise _no_texts()
        return conversations(dataset.texts) if dataset.are_messages else iter(dataset)
    table = as_table(dataset)
    if table is not None:
        return _of_table(table, field)
    _check_is_data(dataset, field)
    if hasattr(dataset, "to_pylist") or hasattr(dataset, "iloc"):
        return iter(column_values(dataset))
    return iter(dataset)


def documents_of(
    dataset: Any,
    field: str | None = None,
    limit: int | None = None,
    *,
    keep_fields: Sequence[str] = (),
    skip_bad_records: bool = False,
) -> Documents:
    """Return a data set, of any kind that `iterate_texts` takes, or token ids, as `Documents`."""
    if isinstance(dataset, str | PathLike):
        found = read_documents(
            fspath(dataset),
            field=field,
            keep_fields=keep_fields,
            skip_bad_records=skip_bad_records,
        )
        return found.first(limit)
    if not isinstance(dataset, Documents) and as_table(dataset) is None:
        _check_is_data(dataset, field)
    return Documents.of(
        dataset,
        field=field,
        keep_fields=keep_fields,
        skip_bad_records=skip_bad_records,
        limit=limit,
    )


def _of_table(table: Table, field: str | None) -> Iterator[Any]:
    found = document_field(table, field)
    if found.kind == "ids":
        raise _no_texts()
    records = TableRecords(table, found).scan()
    texts = (found.text_of(scanned.read(), scanned.where) for scanned in records)
    return conversations(texts) if found.kind == "messages" else texts


def _no_texts() -> TypeError:
    return TypeError(
        "These are token ids, and inference runs texts. Run them with lm(input_ids=...), or save "
        "their activations: lm.activations.save(layer, ids)."
    )


def _check_is_data(dataset: Any, field: str | None) -> None:
    """Raise `TypeError` for what is no data set, `ValueError` for a field of what has none."""
    kind = type(dataset).__name__
    if isinstance(dataset, Mapping):
        columns = ", ".join(map(repr, dataset))
        raise TypeError(f"A mapping is no data set; pass one of its columns: {columns}.")
    if field is not None:
        raise ValueError(f"field={field!r}: {kind} has no fields. Leave it out.")
    if not isinstance(dataset, Iterable) or hasattr(dataset, "columns"):
        raise TypeError(
            f"{kind} is no data set. Give texts, token ids, Documents, a table of pandas, pyarrow "
            "or polars, a data set of Hugging Face, or a name."
        )
