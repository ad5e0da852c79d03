"""What can be wrong with data that documents are read from."""

import errno
from collections.abc import Collection

from tenterhook.errors import TenterhookError, closest


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
