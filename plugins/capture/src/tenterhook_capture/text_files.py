"""A file of text as records: its lines, its paragraphs, or all of it, each under `text`.

Lines are also what other files are cut into; where each begins and ends is all that is kept.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import BinaryIO, Literal

import attrs

from tenterhook_capture.data_files import DataFile
from tenterhook_capture.document_errors import UnreadableData
from tenterhook_capture.records import Record, ScannedRecord

SampleBy = Literal["line", "paragraph", "document"]
"""What is one document in a text file: a line, what stands between empty lines, or all of it."""

MARK = b"\xef\xbb\xbf"
"""May stand before text in UTF-8, and is none of it."""

Span = tuple[int, int, int, bytes]
"""A document's first line, its first byte, the one after its last, and what it holds."""


@attrs.frozen
class Line:
    """A line of a file, without its end."""

    number: int
    """From 1."""
    start: int
    stop: int
    """Its first byte, and the one after its last."""
    content: bytes


def split_lines(file: DataFile) -> Iterator[Line]:
    """Yield every line without its end, one of three kinds, and what comes after the last end."""
    at, number = 0, 1
    with file.open() as opened:
        if opened.read(len(MARK)) == MARK:
            at = len(MARK)
        opened.seek(at)
        ended = True
        for line in opened:
            body = line.removesuffix(b"\n")
            ended = len(body) < len(line)
            if ended:
                body = body.removesuffix(b"\r")
            start = at
            for piece in body.split(b"\r"):
                yield Line(number, start, start + len(piece), piece)
                start += len(piece) + 1
                number += 1
            at += len(line)
        if ended:
            yield Line(number, at, at, b"")


def read_spans(file: DataFile, places: Sequence[tuple[int, ...]]) -> list[bytes]:
    """Return what is between two bytes of a file, at several places."""
    with file.open() as opened:
        found = [_at(opened, start, stop) for start, stop in places]
    file.check_unchanged()
    return found


def decode(content: bytes, at: int, where: str) -> str:
    """Return text that begins at a byte of a file, line ends as `\\n`.

    Raises `UnreadableData` for what is no text in UTF-8.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        reason = f"byte {at + error.start} is not UTF-8; give text in UTF-8, or JSON lines"
        raise UnreadableData(where, reason) from None
    if "\0" in text:
        raise UnreadableData(where, "this is no text: it holds NUL characters")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _at(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


class TextRecords:
    """The documents of a text file, read again by where they begin and end."""

    width = 2

    def __init__(self, file: DataFile, sample_by: SampleBy) -> None:
        self._file = file
        self._sample_by = sample_by

    def __str__(self) -> str:
        return str(self._file)

    def scan(self) -> Iterator[ScannedRecord]:
        """Yield them; each is decoded when it is read."""
        for number, start, stop, content in self._spans():
            where = f"{self._file}, line {number}"
            yield ScannedRecord((start, stop), where, partial(_record, content, start, where))

    def at(self, places: Sequence[tuple[int, ...]]) -> list[Record]:
        """Read some again."""
        found = read_spans(self._file, places)
        return [
            _record(content, place[0], str(self))
            for place, content in zip(places, found, strict=True)
        ]

    def _spans(self) -> Iterator[Span]:
        if self._sample_by == "line":
            return self._lines()
        return self._paragraphs() if self._sample_by == "paragraph" else self._whole()

    def _whole(self) -> Iterator[Span]:
        with self._file.open() as opened:
            content = opened.read()
        start = len(MARK) if content.startswith(MARK) else 0
        yield 1, start, len(content), content[start:]

    def _lines(self) -> Iterator[Span]:
        """Yield the lines; nothing comes after the end of the last."""
        last: Line | None = None
        for line in split_lines(self._file):
            if last is not None:
                yield last.number, last.start, last.stop, last.content
            last = line
        if last is not None and last.content:
            yield last.number, last.start, last.stop, last.content

    def _paragraphs(self) -> Iterator[Span]:
        """Yield what stands between empty lines, each of which ends one."""
        lines: list[Line] = []
        waiting: Line | None = None
        for line in split_lines(self._file):
            if waiting is not None:
                lines.append(waiting)
            waiting = line
            if len(lines) > 1 and not lines[-1].content:
                lines.pop()
                yield _joined(lines)
                lines = []
        if waiting is not None:
            yield _joined([*lines, waiting])


def _joined(lines: Sequence[Line]) -> Span:
    content = b"\n".join(line.content for line in lines)
    return lines[0].number, lines[0].start, lines[-1].stop, content


def _record(content: bytes, at: int, where: str) -> Record:
    return {"text": decode(content, at, where)}
