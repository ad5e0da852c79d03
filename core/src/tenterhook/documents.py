"""Documents: the texts that a model reads, and where they come from."""

import errno
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import attrs

from tenterhook.errors import TenterhookError, closest
from tenterhook.schemes import DEFAULT, absolute_name, load_served, split_scheme

SampleBy = Literal["line", "paragraph", "document"]
"""What is one document in a text file: a line, what stands between empty lines, or all of it."""

RANGES = 100
"""How many stretches of records that were left out a run's metadata names; all are counted."""

JSON_LINES = (".jsonl", ".ndjson", ".json")
TEXT = (".txt", ".text", ".md")
TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".gz", ".zst", ".bz2", ".xz", ".zip")


class NoSuchData(TenterhookError, FileNotFoundError):
    """The file is not there."""

    def __init__(self, path: str, near: Collection[str] = ()) -> None:
        super().__init__(errno.ENOENT, "no such file", path)
        self.path, self.near = path, tuple(near)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...]]]:
        return type(self), (self.path, self.near)

    def __str__(self) -> str:
        hint = f" Did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        return f"There is no file {self.path!r}.{hint}"


class NoDocuments(TenterhookError, ValueError):
    """There is not one document that holds text."""

    def __init__(self, source: str, skipped: int) -> None:
        super().__init__(source, skipped)
        self.source, self.skipped = source, skipped

    def __str__(self) -> str:
        empty = f" ({self.skipped} empty ones were skipped)" if self.skipped else ""
        return f"{self.source} holds no document{empty}. Give data with at least one text."


class UnknownField(TenterhookError, LookupError):
    """The records have no field of that name."""

    def __init__(self, field: str, known: Collection[str], where: str) -> None:
        super().__init__(field, known, where)
        self.field, self.known, self.where = field, tuple(known), where

    def __str__(self) -> str:
        close = closest(self.field, self.known) if self.known else []
        hint = f" Did you mean {close[0]!r}?" if close else ""
        fields = ", ".join(map(repr, self.known)) or "no fields"
        return f"{self.where} has no field {self.field!r}; it has {fields}.{hint}"


class UnreadableData(TenterhookError, ValueError):
    """The data is there and cannot be read as documents."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


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


def _as_tuple(texts: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(texts)


@attrs.frozen(eq=False)
class Documents:
    """Texts in order, and what they are. Text `i` is document `i` of a run made of them."""

    texts: Sequence[str] = attrs.field(converter=_as_tuple)
    source: str = attrs.field(default="the texts given", kw_only=True)
    """What they were read from, for people."""
    field: str | None = attrs.field(default=None, kw_only=True)
    """The field of the records that they were, where they were records."""
    empty: Sequence[int] = attrs.field(default=(), converter=_as_tuple, kw_only=True)
    """The numbers, from 0 and rising, of the records that were empty and left out."""
    origin: DataName | None = attrs.field(default=None, kw_only=True)
    """The name that `read_documents` read them by; `None` for texts that were given."""

    @texts.validator
    def _check_texts(self, attribute: object, texts: tuple[str, ...]) -> None:
        given: Sequence[object] = texts
        for number, text in enumerate(given):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise UnreadableData(f"document {number}", f"it is a {kind}, and must be a str")

    def __attrs_post_init__(self) -> None:
        if not self.texts:
            raise NoDocuments(self.source, self.skipped)

    @property
    def skipped(self) -> int:
        """How many empty ones were left out."""
        return len(self.empty)

    @classmethod
    def of(cls, texts: "Documents | Iterable[str]") -> "Documents":
        """Return texts as documents; documents as they are."""
        if isinstance(texts, Documents):
            return texts
        if isinstance(texts, str):
            raise UnreadableData("documents", "this is one str; give a list of texts")
        return cls(tuple(texts))

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __getitem__(self, document: int) -> str:
        return self.texts[document]

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the texts, in order; the same whatever they were read from."""
        digest = hashlib.sha256()
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
        return attrs.evolve(self, texts=self.texts[:count], empty=self.empty[:before])

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


def ranges(numbers: Iterable[int], limit: int | None = RANGES) -> list[list[int]]:
    """Return rising numbers as `[first, last]` of each stretch, up to `limit` stretches."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        elif len(found) == limit:
            break
        else:
            found.append([number, number])
    return found


def read_documents(
    name: str, *, field: str | None = None, sample_by: SampleBy = "line"
) -> Documents:
    """Read documents by name.

    A name with a scheme, `tiny:sample`, is read by the plugin that serves the scheme. A file is
    read as JSON lines if it ends in `.jsonl`, `.ndjson` or `.json` (`field` names the text in a
    record, `text` by default), else as text in UTF-8, of which `sample_by` says what a document
    is. A folder, or any other name, is a data set of Hugging Face. Empty documents are left out
    and counted.

    Raises `NoSuchData`, `NoDocuments`, `UnknownField`, `UnreadableData`, `UnknownScheme`,
    `MissingPlugin`, and what a plugin raises.
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
            return read_file(path, field=field, sample_by=sample_by)
        if not path.exists() and _looks_like_a_file(name):
            raise NoSuchData(name, _near(path))
        if path.exists() and not path.is_dir():
            raise UnreadableData(name, "this is neither a file nor a folder")
        name = f"{DEFAULT}:{path if path.is_dir() else name}"
    read, rest = load_served("datasets", name)
    documents: Documents = read(rest, field=field)
    return documents


def read_file(path: Path, *, field: str | None = None, sample_by: SampleBy = "line") -> Documents:
    """Read a file of text, or of JSON lines; see `read_documents`."""
    ending = path.suffix.lower()
    if ending in TABLES:
        raise UnreadableData(
            str(path), f"{ending} files are not read; give text, JSON lines, or a data set's folder"
        )
    if ending in JSON_LINES:
        field = "text" if field is None else field
        return _kept(_records(path, field), str(path), field)
    if field is not None:
        raise UnreadableData(
            str(path), f"a text file has no field {field!r}; leave it out, or name the file .jsonl"
        )
    return _kept(_SPLIT[sample_by](_read_text(path)), str(path), None)


def _kept(texts: Iterable[str | None], source: str, field: str | None) -> Documents:
    kept, empty = kept_texts(texts)
    return Documents(kept, source=source, field=field, empty=empty)


def kept_texts(
    texts: Iterable[str | None], limit: int | None = None
) -> tuple[list[str], list[int]]:
    """Return the texts that hold something, up to `limit` of them, and the numbers of the others.

    Reads no further than the last text that is kept.
    """
    kept: list[str] = []
    empty: list[int] = []
    for number, text in enumerate(texts):
        if text is None or not text.strip():
            empty.append(number)
            continue
        kept.append(text)
        if len(kept) == limit:
            break
    return kept, empty


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else lines  # the last line ends; none follows it


_SPLIT: dict[str, Callable[[str], list[str]]] = {
    "line": _lines,
    "paragraph": lambda text: text.split("\n\n"),
    "document": lambda text: [text],
}


def _read_text(path: Path) -> str:
    """Return a file's text, line ends as `\\n`."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8; give text in UTF-8, or JSON lines"
        raise UnreadableData(str(path), reason) from None
    except PermissionError:
        raise UnreadableData(str(path), "this file may not be read; check its rights") from None
    if "\0" in content:
        raise UnreadableData(str(path), "this is no text: it holds NUL characters")
    return content.replace("\r\n", "\n").replace("\r", "\n")


def _records(path: Path, field: str) -> Iterator[str | None]:
    """Yield the texts of JSON lines, or of one JSON list of objects."""
    text = _read_text(path)
    if text.lstrip().startswith("["):
        for number, record in enumerate(_json(text, str(path)), 1):
            yield _text_of(record, field, f"{path}, record {number}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _text_of(_json(line, where), field, where)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableData(where, f"this is no JSON: {error}") from None
    except RecursionError:
        raise UnreadableData(where, "this JSON is nested too deep") from None


def _text_of(record: Any, field: str, where: str) -> str | None:
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise UnreadableData(where, f"this is a {kind}, and each record must be an object")
    if field not in record:
        raise UnknownField(field, list(record), where)
    text = record[field]
    if text is not None and not isinstance(text, str):
        raise UnreadableData(
            where, f"field {field!r} holds a {type(text).__name__}, and must hold text"
        )
    return text


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
