"""What can be wrong with a spec, or with a hook that is to be described by one."""

from collections.abc import Iterable, Sequence

import attrs

from tenterhook.errors import TenterhookError


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


@attrs.define(slots=False)
class BadSpec(TenterhookError, ValueError):
    """A spec that does not say what can be done."""

    mistakes: Sequence[str] = attrs.field(converter=_texts)
    """Each with the path to it, as `hooks[0].parameters.coefficient`."""

    def __str__(self) -> str:
        return " ".join(f"{mistake.removesuffix('.')}." for mistake in self.mistakes).replace(
            "?.", "?"
        )


@attrs.define(slots=False)
class NotAllowed(TenterhookError, ValueError):
    """A spec names code that the user did not allow it to import."""

    target: str
    allow: Sequence[str] = attrs.field(converter=_texts)
    why: str = ""
    home: str = ""
    """The module that has the code; that of the path unless given."""

    def __attrs_post_init__(self) -> None:
        self.home = self.home or self.target.partition(":")[0]

    def __str__(self) -> str:
        package = self.home.partition(".")[0]
        allowed = f"only from {', '.join(self.allow)}" if self.allow else "from nowhere"
        why = f" {self.why}" if self.why else ""
        what = f"{self.target!r} is code, and a spec may name code {allowed}.{why}"
        if package in self.allow:
            return what
        way = f"apply(spec, allow={[*self.allow, package]!r})"
        return f"{what} If you trust it, allow where it is defined, as {way}."


@attrs.define(slots=False)
class NotDescribable(TenterhookError, TypeError):
    """A hook has something that no spec can say."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} cannot be described in a spec: {self.why}"
