"""What goes wrong at a tap: a change that does not fit a call, and too little room."""

import attrs

from tenterhook.errors import TenterhookError


@attrs.define(slots=False)
class WidthMismatch(TenterhookError, ValueError):
    """A vector has another number of features than the activation it is to be added to."""

    width: int
    features: int

    def __str__(self) -> str:
        return (
            f"add() was given a vector of {self.width} features, and the activation of this call "
            f"has {self.features}. Give one of {self.features}."
        )


@attrs.define(slots=False)
class RowsMismatch(TenterhookError, ValueError):
    """What was given for each row of the batch does not fit the batch of a call."""

    what: str
    rows: int
    batch: int | None
    """How many rows the call has; `None` where its activation has a single axis, or none."""

    def __str__(self) -> str:
        has = "no rows" if self.batch is None else f"{self.batch}"
        return (
            f"{self.what} was given for {self.rows} rows, and the batch of this call has {has}. "
            "Give one for each row, or one for all."
        )


@attrs.define(slots=False)
class RoomFull(TenterhookError, RuntimeError):
    """A capture has seen more tokens than there is room for."""

    max_tokens: int
    tokens: int
    """How many tokens the calls have had, the one that did not fit included."""

    def __str__(self) -> str:
        return (
            f"The capture has room for max_tokens={self.max_tokens}, and the calls so far have "
            f"{self.tokens}. Give capture() more, or leave max_tokens out."
        )


@attrs.define(slots=False)
class TapsRemoved(TenterhookError, RuntimeError):
    """Something is asked of taps that are on no model any more."""

    layer: str

    def __str__(self) -> str:
        return f"The tap at {self.layer!r} was removed. Place new ones by model.taps(...)."
