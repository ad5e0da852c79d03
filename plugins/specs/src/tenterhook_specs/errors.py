"""What can be wrong with a spec, or with a hook that is to be described by one."""

from collections.abc import Sequence

from tenterhook.errors import TenterhookError


class BadSpec(TenterhookError, ValueError):
    """A spec that does not say what can be done."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__(mistakes)
        self.mistakes = tuple(mistakes)
        """Each with the path to it, as `hooks[0].parameters.coefficient`."""

    def __str__(self) -> str:
        return " ".join(f"{mistake.removesuffix('.')}." for mistake in self.mistakes).replace(
            "?.", "?"
        )


class NotAllowed(TenterhookError, ValueError):
    """A spec names code that the user did not allow it to import."""

    def __init__(self, target: str, allow: Sequence[str], why: str = "", home: str = "") -> None:
        super().__init__(target, allow, why, home)
        self.target, self.allow, self.why = target, tuple(allow), why
        self.home = home or target.partition(":")[0]
        """The module that has the code."""

    def __str__(self) -> str:
        package = self.home.partition(".")[0]
        allowed = f"only from {', '.join(self.allow)}" if self.allow else "from nowhere"
        why = f" {self.why}" if self.why else ""
        what = f"{self.target!r} is code, and a spec may name code {allowed}.{why}"
        if package in self.allow:
            return what
        way = f"apply(spec, allow={[*self.allow, package]!r})"
        return f"{what} If you trust it, allow where it is defined, as {way}."


class NotDescribable(TenterhookError, TypeError):
    """A hook has something that no spec can say."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what, self.why = what, why

    def __str__(self) -> str:
        return f"{self.what} cannot be described in a spec: {self.why}"
