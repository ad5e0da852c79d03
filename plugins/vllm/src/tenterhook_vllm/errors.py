"""What can go wrong with the requests of an engine, once what they ask for was checked."""

from collections.abc import Sequence

import attrs

from tenterhook.errors import TenterhookError

_SHOWN = 8


@attrs.define(slots=False)
class DuplicateRequest(TenterhookError, ValueError):
    """A request has the id of another one that is not over."""

    request: str

    def __str__(self) -> str:
        return (
            f"Request {self.request!r} is there already. Finish or abort it first, or give another "
            "id."
        )


@attrs.define(slots=False)
class UnknownRequest(TenterhookError, LookupError):
    """A request was never added, or is over."""

    request: str

    def __str__(self) -> str:
        return (
            f"Request {self.request!r} is not there: it was never added, or it was finished or "
            "aborted. Add it before its first step."
        )


@attrs.define(slots=False)
class SelectionFailed(TenterhookError, RuntimeError):
    """A selection could not say which tokens of a request it means."""

    request: str
    selection: str
    original_error: BaseException

    def __str__(self) -> str:
        cause = self.original_error
        return f"Request {self.request!r}: {self.selection} failed: {type(cause).__name__}: {cause}"


@attrs.define(slots=False)
class NothingSelected(TenterhookError, RuntimeError):
    """What a request asked for was done to none of its tokens."""

    request: str
    what: str
    selection: str
    tokens: int
    """Of the request, those that went through the model."""
    prompt: int

    def __str__(self) -> str:
        return (
            f"Request {self.request!r}: {self.what} no token. {self.selection} matches none of the "
            f"{self.tokens} that went through the model, {self.prompt} of the prompt and "
            f"{self.tokens - self.prompt} generated; the last one generated does not. Select "
            "others, or generate more."
        )


@attrs.define(slots=False)
class NothingChanged(TenterhookError, RuntimeError):
    """A hook left all tokens that it was given as they were."""

    request: str
    hook: str
    point: str

    def __str__(self) -> str:
        return (
            f"Request {self.request!r}: {self.hook} at {self.point!r} left every token as it was. "
            "Give it parameters that change something, or leave it out."
        )


@attrs.define(slots=False)
class RowsMissing(TenterhookError, RuntimeError):
    """A request has tokens that were to be captured or changed, and never came by."""

    request: str
    point: str
    positions: Sequence[int]
    cached: int
    """How many tokens' state came from a prefix cache."""

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.positions[:_SHOWN]))
        more = len(self.positions) - _SHOWN
        way = (
            f"The state of {self.cached} of its tokens came from a prefix cache: give the request "
            "the salt that its spec says, and no second answer that shares it."
            if self.cached
            else "The engine did not run the model there, or skipped the point: tell each step and "
            "call at() for each point in use."
        )
        return (
            f"Request {self.request!r} has no rows at {self.point!r} for its tokens at {shown}"
            f"{f' and {more} more' if more > 0 else ''}. {way}"
        )


@attrs.define(slots=False)
class OtherTokens(TenterhookError, RuntimeError):
    """What passed through the model for a request is not the text that the engine returned."""

    request: str
    position: int
    passed: int
    returned: int

    def __str__(self) -> str:
        return (
            f"Request {self.request!r} had id {self.passed} at position {self.position} when it "
            f"went through the model, and {self.returned} in the text returned. The rows are of "
            "another text: is a step told of the wrong request, or at the wrong position?"
        )


@attrs.define(slots=False)
class WrongRows(TenterhookError, ValueError):
    """The rows at a point are not those that the step or the point says."""

    point: str
    shape: Sequence[int]
    rows: int
    width: int

    def __str__(self) -> str:
        return (
            f"The rows at {self.point!r} have shape {tuple(self.shape)}, and the step has "
            f"{self.rows} rows of {self.width} features there. Give the flat batch, one row a "
            "token."
        )


@attrs.define(slots=False)
class NotInStep(TenterhookError, RuntimeError):
    """Something of a step was asked for out of turn."""

    what: str

    def __str__(self) -> str:
        return f"{self.what} Each forward is one `with serving.step(step):`, each point once in it."
