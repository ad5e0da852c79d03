"""What goes wrong here: something was asked for that this package does not have."""

from collections.abc import Sequence
from difflib import get_close_matches

from tenterhook.errors import TenterhookError


class UnknownName(TenterhookError, ValueError):
    """This package has no model or data set of that name."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(kind, name, known)
        self.kind, self.name, self.known = kind, name, list(known)

    def __str__(self) -> str:
        close = get_close_matches(self.name, self.known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        names = " or ".join(map(repr, self.known))
        return f"tenterhook-tiny has no {self.kind} {self.name!r}, only {names}.{hint}"


class NoRevisions(TenterhookError, ValueError):
    """A revision was asked for, and the model has none to choose from."""

    def __init__(self, revision: str) -> None:
        super().__init__(revision)
        self.revision = revision

    def __str__(self) -> str:
        return (
            f"revision={self.revision!r}: the model in tenterhook-tiny has no revisions. "
            "Leave it out; the version of the package says which weights these are."
        )
