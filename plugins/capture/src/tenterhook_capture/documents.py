"""Documents: the texts that a model reads, and where they come from."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import attrs

from tenterhook.errors import closest
from tenterhook.one_line import type_name
from tenterhook_capture import text_files
from tenterhook_capture.conversations import MESSAGES, conversation_text, is_conversation
from tenterhook_capture.document_errors import NoDocuments, NoSuchData, UnknownField, UnreadableData
from tenterhook_capture.id_lists import as_list, ids_text, is_ids
from tenterhook_capture.lazy_texts import AT_ONCE, LazyTexts, texts_with_content
from tenterhook_capture.spilled import Numbers
from tenterhook_capture.text_files import SampleBy
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
    "texts_with_content",
]

JSON_LINES = (".jsonl", ".ndjson", ".json")
TEXT = (".txt", ".text", ".md")
TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".gz", ".zst", ".bz2", ".xz", ".zip")


@attrs.frozen
class DataName:
    """How documents were named, so that another process can read the same."""

    name: str
    field: str | None = None
    sample_by: SampleBy = attrs.field(
        default="line", validator=attrs.validators.in_(get_args(SampleBy))
    )

    def read(self) -> "Documents":
        """Read them; see `read_documents`."""
        return read_documents(self.name, field=self.field, sample_by=self.sample_by)


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
    def of(cls, texts: "Documents | Iterable[Any]") -> "Documents":
        """Return texts, conversations or token ids as documents; documents as they are.

        A conversation is a list of messages with `role` and `content`; token ids are a list of
        ints for each document, or a tensor or array `(documents, tokens)`. Raises `UnreadableData`
        for a `str`.
        """
        if isinstance(texts, Documents):
            return texts
        if isinstance(texts, str):
            raise UnreadableData("documents", "this is one str; give a list of texts")
        found: tuple[Any, ...] = tuple(as_list(texts))
        if not found:
            return cls(found)
        if all(map(is_conversation, found)):
            made = [conversation_text(each, f"document {at}") for at, each in enumerate(found)]
            return cls(made, source="the conversations given", are_messages=True)
        if all(map(is_ids, found)):
            made = [ids_text(each, f"document {at}") for at, each in enumerate(found)]
            return cls(made, source="the token ids given", are_token_ids=True)
        return cls(found)

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

    def first(self, count: int | None) -> "Documents":
        """Return the first so many; all where `count` is `None` or more than there are.

        Empty records count as left out where they stand before the last one that is kept.
        """
        if count is None or count >= len(self):
            return self
        before = bisect_left(range(len(self.empty)), count, key=lambda at: self.empty[at] - at)
        found = self.texts
        texts = found.first(count) if isinstance(found, LazyTexts) else found[:count]
        return attrs.evolve(self, texts=texts, empty=self.empty[:before])

    def describe(self) -> dict[str, Any]:
        """Say what they are, in plain JSON values."""
        return {
            "source": self.source,
            "field": self.field,
            "count": len(self),
            "skipped_empty": self.skipped,
            "skipped_records": ranges(self.empty),
            "fingerprint": self.fingerprint,
        }


def read_documents(
    name: str, *, field: str | None = None, sample_by: SampleBy = "line"
) -> Documents:
    """Read documents by name.

    A name with a scheme, `tiny:sample`, is read by the plugin that serves the scheme. A file is
    read as JSON lines if it ends in `.jsonl`, `.ndjson` or `.json`, else as text in UTF-8, of which
    `sample_by` says what a document is. `field` names the text in a record: `text` by default, or
    `messages`, which holds conversations. A folder, or any other name, is a data set of Hugging
    Face. Empty documents are left out and counted.

    Raises `NoSuchData`, `NoDocuments`, `UnknownField`, `UnreadableData`, `UnknownScheme`,
    `MissingPlugin`, `ValueError` for another `sample_by`, `BrokenExtension` where a plugin returns
    something else, and what it raises.
    """
    if sample_by not in get_args(SampleBy):
        raise ValueError(f"sample_by={sample_by!r} is not one of {list(get_args(SampleBy))}.")
    found = _read(name, field, sample_by)
    return attrs.evolve(found, origin=DataName(absolute_name(name), field, sample_by))


def _read(name: str, field: str | None, sample_by: SampleBy) -> Documents:
    if not name.strip() or "\0" in name:
        raise UnreadableData(repr(name), "this cannot name data")
    scheme, _ = split_scheme(name)
    path = Path(name).expanduser()
    if scheme is None or path.exists():
        if path.is_file():
            return _read_file(path, field, sample_by)
        if not path.exists() and _looks_like_a_file(name):
            raise NoSuchData(name, _near(path))
        if path.exists() and not path.is_dir():
            raise UnreadableData(name, "this is neither a file nor a folder")
        name = f"{DEFAULT}:{path if path.is_dir() else name}"
    source, rest = resolve_name("datasets", name)
    documents = source.call(rest, field=field)
    if not isinstance(documents, Documents):
        raise source.broken(f"returned a {type_name(documents)}, which is no Documents")
    return documents


def _read_file(path: Path, field: str | None, sample_by: SampleBy) -> Documents:
    ending = path.suffix.lower()
    if ending in TABLES:
        raise UnreadableData(
            str(path), f"{ending} files are not read; give text, JSON lines, or a data set's folder"
        )
    if ending in JSON_LINES:
        field = text_files.default_field(path) if field is None else field
        texts, empty = text_files.read_records(path, field)
        chats = field == MESSAGES
        return Documents(texts, source=str(path), field=field, empty=empty, are_messages=chats)
    if field is not None:
        raise UnreadableData(
            str(path), f"a text file has no field {field!r}; leave it out, or name the file .jsonl"
        )
    texts, empty = text_files.read_text(path, sample_by)
    return Documents(texts, source=str(path), empty=empty)


def _looks_like_a_file(name: str) -> bool:
    """Say whether a name that is not there was meant as a path, not as a name on the hub."""
    path = Path(name)
    return (
        path.suffix.lower() in (*JSON_LINES, *TEXT, *TABLES)
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
