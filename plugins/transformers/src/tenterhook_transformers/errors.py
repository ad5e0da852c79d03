"""What can go wrong here, each error a builtin kind too."""

from tenterhook.errors import TenterhookError, TenterhookWarning


class _NotFound(TenterhookError, OSError, LookupError):
    """Something on the hub or on disk cannot be had."""

    kind = "thing"

    def __init__(self, name: str, reason: str, way_out: str = "") -> None:
        super().__init__(f"{name!r}: {reason}")
        self.name, self.reason, self.way_out = name, reason, way_out

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.name, self.reason, self.way_out)

    def __str__(self) -> str:
        reason = self.reason.removesuffix(".")
        return f"No {self.kind} {self.name!r}: {reason}. {self.way_out}".rstrip()


class UnknownModel(_NotFound):
    """A model that is neither in a folder nor on the hub, or cannot be loaded from there."""

    kind = "model"


class UnknownDataset(_NotFound):
    """A data set that is neither in a folder nor on the hub, or cannot be read from there."""

    kind = "data set"


class BadSetting(TenterhookError, ValueError):
    """A dtype, device or attention implementation that is not there."""


class EmptyText(TenterhookError, ValueError):
    """There is nothing to run a model on."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__(at)
        self.at = at

    def __str__(self) -> str:
        if self.at is None:
            return "There are no texts to run the model on; pass a str or a list of at least one."
        return (
            f"Text {self.at} has no tokens, so there is nothing to run the model on. Leave it out, "
            "or have the tokenizer add a special token."
        )


class TooLong(TenterhookError, ValueError):
    """A text has more tokens than the model has positions."""

    def __init__(self, at: int, tokens: int, limit: int) -> None:
        super().__init__(at, tokens, limit)
        self.at, self.tokens, self.limit = at, tokens, limit

    def __str__(self) -> str:
        return (
            f"Text {self.at} has {self.tokens} tokens and the model takes {self.limit}. "
            "Cut it with tok_kwargs={'truncation': True}, or split it."
        )


class MissingWeights(TenterhookWarning):
    """A checkpoint lacks weights of the model, which are random now."""
