"""What can be wrong with data that documents are read from."""

import errno
from collections.abc import Collection, Iterable
from typing import Any

import attrs

from tenterhook.errors import TenterhookError, closest


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


class NoSuchData(TenterhookError, FileNotFoundError):
    """The file is not there."""

    # By hand: an `OSError` takes its number and its file name from its arguments.
    def __init__(self, path: str, near: Collection[str] = ()) -> None:
        super().__init__(errno.ENOENT, "no such file", path)
        self.path, self.near = path, tuple(near)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...]], dict[str, Any]]:
        return type(self), (self.path, self.near), vars(self)

    def __str__(self) -> str:
        hint = f" Did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        return f"There is no file {self.path!r}.{hint}"


@attrs.define(slots=False)
class NoDocuments(TenterhookError, ValueError):
    """There is not one document that holds text."""

    source: str
    skipped: int

    def __str__(self) -> str:
        empty = f" ({self.skipped} empty ones were skipped)" if self.skipped else ""
        return f"{self.source} holds no document{empty}. Give data with at least one text."


@attrs.define(slots=False)
class UnknownField(TenterhookError, LookupError):
    """The records have no field of that name."""

    field: str
    known: tuple[str, ...] = attrs.field(converter=_texts)
    where: str

    def __str__(self) -> str:
        close = closest(self.field, self.known) if self.known else []
        hint = f" Did you mean {close[0]!r}?" if close else ""
        fields = ", ".join(map(repr, self.known)) or "no fields"
        return f"{self.where} has no field {self.field!r}; it has {fields}.{hint}"


@attrs.define(slots=False)
class UnreadableData(TenterhookError, ValueError):
    """The data is there and cannot be read as documents."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"
