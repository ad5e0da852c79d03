"""The documents of a file of text, or of JSON lines: where each is, and reading some of them.

A file is gone through once, to find its documents and what is wrong with it; what is kept of it is
where each begins and ends.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import attrs

from tenterhook_capture.conversations import MESSAGES, conversation_text
from tenterhook_capture.document_errors import UnknownField, UnreadableData
from tenterhook_capture.lazy_texts import LazyTexts, texts_with_content
from tenterhook_capture.spilled import Numbers

SampleBy = Literal["line", "paragraph", "document"]
"""What is one document in a text file: a line, what stands between empty lines, or all of it."""

MARK = b"\xef\xbb\xbf"
"""May stand before text in UTF-8, and is none of it."""

Found = tuple[Sequence[str], Sequence[int]]
"""The texts that hold something, and the numbers of the documents that do not."""


@attrs.frozen
class TextSpan:
    """A document in a file."""

    start: int
    stop: int
    """Its first byte, and the one after its last."""
    text: str | None


def read_text(path: Path, sample_by: SampleBy) -> Found:
    """Find the documents of a file of text."""
    if sample_by == "document":
        return texts_with_content([_whole(path)])
    return _found(path, _paragraphs(path) if sample_by == "paragraph" else _lines(path), _decoded)


def read_records(path: Path, field: str) -> Found:
    """Find the texts of a field, in JSON lines or in one JSON list of records."""
    if _begins_with(path, b"["):
        records = enumerate(_json(_whole(path), str(path)), 1)
        return texts_with_content(
            _text_of(each, field, f"{path}, record {at}") for at, each in records
        )
    return _found(
        path,
        _records(path, field),
        lambda line: _text_of(json.loads(line), field, str(path)) or "",
    )


def default_field(path: Path) -> str:
    """Return the field that holds the documents if nobody says: `text`, or else `messages`."""
    with _open(path) as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        record = json.loads(first.removeprefix(MARK))
    except (ValueError, RecursionError):  # a list over several lines, or no JSON: read as text
        return "text"
    record = record[0] if isinstance(record, list) and record else record
    chat = isinstance(record, dict) and "text" not in record and MESSAGES in record
    return MESSAGES if chat else "text"


def _found(path: Path, parts: Iterable[TextSpan], text_of: Callable[[bytes], str]) -> Found:
    places, empty = Numbers("q"), Numbers("q")
    path = path.absolute()
    before = _state(path)
    for number, part in enumerate(parts):
        if part.text is None or not part.text.strip():
            empty.extend([number])
        else:
            places.extend((part.start, part.stop))

    def read(start: int, stop: int) -> list[str]:
        ends = places[2 * start : 2 * stop]
        with _open(path) as file:
            content = [_at(file, *ends[at : at + 2]) for at in range(0, len(ends), 2)]
        if _state(path) != before:
            raise UnreadableData(str(path), "it was changed since its documents were found")
        return [text_of(each) for each in content]

    return LazyTexts(len(places) // 2, read), empty


def _state(path: Path) -> tuple[int, int]:
    with _open(path) as file:
        found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _at(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except PermissionError:
        raise UnreadableData(str(path), "this file may not be read; check its rights") from None
    except FileNotFoundError:
        raise UnreadableData(str(path), "this file is gone") from None


# --- what is in a file


def _lines(path: Path) -> Iterator[TextSpan]:
    """Yield the lines; nothing comes after the end of the last."""
    last: TextSpan | None = None
    for part in _split(path):
        if last is not None:
            yield last
        last = part
    if last is not None and last.text:
        yield last


def _paragraphs(path: Path) -> Iterator[TextSpan]:
    """Yield what stands between empty lines, each of which ends one."""
    lines: list[TextSpan] = []
    waiting: TextSpan | None = None
    for part in _split(path):
        if waiting is not None:
            lines.append(waiting)
        waiting = part
        if len(lines) > 1 and not lines[-1].text:
            lines.pop()
            yield _joined(lines)
            lines = []
    if waiting is not None:
        yield _joined([*lines, waiting])


def _joined(lines: list[TextSpan]) -> TextSpan:
    return TextSpan(lines[0].start, lines[-1].stop, "\n".join(str(line.text) for line in lines))


def _records(path: Path, field: str) -> Iterator[TextSpan]:
    for number, line in enumerate(_split(path), 1):
        if line.text and line.text.strip():
            where = f"{path}, line {number}"
            yield attrs.evolve(line, text=_text_of(_json(line.text, where), field, where))


def _split(path: Path) -> Iterator[TextSpan]:
    """Yield every line without its end, one of three kinds, and what comes after the last end."""
    at = 0
    with _open(path) as file:
        if file.read(len(MARK)) == MARK:
            at = len(MARK)
        file.seek(at)
        ended = True
        for line in file:
            body = line.removesuffix(b"\n")
            ended = len(body) < len(line)
            if ended:
                body = body.removesuffix(b"\r")
            start = at
            for piece in body.split(b"\r"):
                yield TextSpan(start, start + len(piece), _checked(piece, start, path))
                start += len(piece) + 1
            at += len(line)
        if ended:
            yield TextSpan(at, at, "")


def _checked(content: bytes, at: int, path: Path) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        reason = f"byte {at + error.start} is not UTF-8; give text in UTF-8, or JSON lines"
        raise UnreadableData(str(path), reason) from None
    if "\0" in text:
        raise UnreadableData(str(path), "this is no text: it holds NUL characters")
    return text


def _decoded(content: bytes) -> str:
    """Return text that was checked, line ends as `\\n`."""
    return content.decode().replace("\r\n", "\n").replace("\r", "\n")


def _whole(path: Path) -> str:
    with _open(path) as file:
        content = file.read().removeprefix(MARK)
    _checked(content, 0, path)
    return _decoded(content)


def _begins_with(path: Path, sign: bytes) -> bool:
    """Say whether a file's first letter, blanks aside, is that one."""
    with _open(path) as file:
        for line in file:
            if found := line.removeprefix(MARK).lstrip():
                return found.startswith(sign)
    return False


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
    if field == MESSAGES and text is not None and not isinstance(text, str):
        return conversation_text(text, where) if text else None
    if text is not None and not isinstance(text, str):
        raise UnreadableData(
            where, f"field {field!r} holds a {type(text).__name__}, and must hold text"
        )
    return text
