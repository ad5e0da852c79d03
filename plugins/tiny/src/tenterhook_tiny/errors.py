"""What goes wrong here: something was asked for that this package does not have."""

from collections.abc import Sequence
from difflib import get_close_matches

import attrs

from tenterhook.errors import TenterhookError


def _list(names: Sequence[str]) -> list[str]:
    return list(names)


@attrs.define(slots=False)
class UnknownName(TenterhookError, ValueError):
    """This package has no model or data set of that name."""

    kind: str
    """What was asked for: `"model"` or `"data set"`."""

    name: str
    """The name that was given."""

    known: list[str] = attrs.field(converter=_list)
    """The names that there are."""

    def __str__(self) -> str:
        close = get_close_matches(self.name, self.known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        names = " or ".join(map(repr, self.known))
        return f"tenterhook-tiny has no {self.kind} {self.name!r}, only {names}.{hint}"


@attrs.define(slots=False)
class NoRevisions(TenterhookError, ValueError):
    """A revision was asked for, and the model has none to choose from."""

    revision: str
    """The revision that was asked for."""

    def __str__(self) -> str:
        return (
            f"revision={self.revision!r}: the model in tenterhook-tiny has no revisions. "
            "Leave it out; the version of the package says which weights these are."
        )
