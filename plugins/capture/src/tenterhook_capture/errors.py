"""What can go wrong with a capture before or while it runs."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from tenterhook.errors import TenterhookError
from tenterhook_store import OtherRun


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


def _copied(causes: Mapping[int, str]) -> dict[int, str]:
    return dict(causes)


@attrs.define(slots=False)
class BadArgument(TenterhookError, ValueError):
    """An argument that makes no sense."""

    name: str
    value: Any
    expected: str

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} must be {self.expected}."


@attrs.define(slots=False)
class NothingToCapture(TenterhookError, ValueError):
    """No document has a token."""

    source: str
    documents: int

    def __str__(self) -> str:
        return (
            f"None of the {self.documents} documents of {self.source} has a token, so there is "
            "nothing to capture. Look at the data, and at the model's tokenizer."
        )


@attrs.define(slots=False)
class NotPerToken(TenterhookError, ValueError):
    """A layer's output has no row for each token."""

    layer: str
    found: str
    batch: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} gave {self.found} for a batch of (batch, seq) = {self.batch}. "
            "A run keeps a row per token, so the output must be (batch, seq, features). "
            "Choose another layer; `tenterhook layers MODEL` lists them."
        )


@attrs.define(slots=False)
class SeveralCalls(TenterhookError, ValueError):
    """A forward calls a layer several times, and it was not said which call, or one there is not.

    Calls are counted from 0, as `captured[layer]` has them.
    """

    layer: str
    calls: int
    call: int | None = None
    """The one that was asked for."""

    def __str__(self) -> str:
        times = "once" if self.calls == 1 else f"{self.calls} times"
        if self.call is not None:
            last = f"the last is call={self.calls - 1}"
            return (
                f"Layer {self.layer!r} is called {times} in a forward, so there is no "
                f"call={self.call}: calls are counted from 0, and {last}."
            )
        return (
            f"Layer {self.layer!r} is called {times} in a forward, and a run keeps a row per "
            f"token. Say which call, counted from 0: {f'{self.layer}:call=0'!r} is the first, "
            f"{f'{self.layer}:call={self.calls - 1}'!r} the last."
        )


@attrs.define(slots=False)
class WrongMask(TenterhookError, ValueError):
    """A model's mask does not mark the tokens that it was given."""

    found: list[int]
    expected: list[int]

    def __str__(self) -> str:
        return (
            f"The model was given documents of {self.expected} tokens and its mask marks "
            f"{self.found}. `run_token_ids` must return a bool mask with one True per token."
        )


@attrs.define(slots=False)
class MaskIgnored(TenterhookError, ValueError):
    """Rows of a document depend on how much it is padded."""

    layer: str
    error: float
    """The largest difference of a row, of what the row measures."""
    bound: float
    """What rounding explains."""
    is_left: bool = False
    """Whether padding is before a document."""

    def __str__(self) -> str:
        other = ", or pad on the right (tokenizer.padding_side = 'right')" if self.is_left else ""
        return (
            f"The model does not honour its mask: at {self.layer!r} a document's rows are "
            f"{self.error:.2g} of their size off when it is padded, and rounding explains "
            f"{self.bound:.2g}. Run documents one by one: --batch-size 1 (batch_size=1){other}."
        )


@attrs.define(slots=False)
class NotRebuildable(TenterhookError, ValueError):
    """A run was made from what has no name, so that only the call that made it goes on with it."""

    run_id: str
    unnamed: tuple[str, ...] = attrs.field(converter=_texts)

    def __str__(self) -> str:
        return (
            f"Run {self.run_id!r} was made from {' and '.join(self.unnamed)}, which another "
            "process cannot make again. The same call that began it goes on with it. For runs that "
            "any process can go on with, give the model and the data by name: "
            "load_model('tiny:'), save(..., 'texts.jsonl')."
        )


class ChangedSince(OtherRun):
    """The names that a run was made from give something else now."""

    def __str__(self) -> str:
        return (
            f"Run {self.run_id!r} cannot go on: its model or its data are not what they were when "
            f"it was begun ({self.shown}). Put them back, or say where they are with --model and "
            "--data."
        )


@attrs.define(slots=False)
class UnitsFailed(TenterhookError, RuntimeError):
    """Some units of a run failed at every try; the others are done."""

    run_id: str
    causes: Mapping[int, str] = attrs.field(converter=_copied)
    tries: int

    def __str__(self) -> str:
        count = len(self.causes)
        shown = "; ".join(f"unit {number}: {cause}" for number, cause in [*self.causes.items()][:5])
        more = f"; and {count - 5} more" if count > 5 else ""
        tried = "once" if self.tries == 1 else f"{self.tries} times"
        return (
            f"Run {self.run_id!r} is incomplete: {count} unit{'s' if count > 1 else ''} failed, "
            f"tried {tried} each, and the others are done ({shown}{more})."
        )


@attrs.define(slots=False)
class BadSlice(TenterhookError, ValueError):
    """A part of a run's units that makes no sense."""

    text: str
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return f"{self.text}: {self.why}. Say which part to do: --slice 0/4, up to 3/4."
        return (
            f"slice {self.text!r} must be i/n, part i of n parts counted from 0: "
            "of 4 parts 0/4, 1/4, 2/4 and 3/4."
        )


@attrs.define(slots=False)
class NoPattern(TenterhookError, ValueError):
    """A layer returns no attention pattern."""

    layer: str
    attention: str | None = None

    def __str__(self) -> str:
        returned = (
            f"Layer {self.layer!r} returned no attention pattern, (batch, heads, seq, seq), beside "
            "its output."
        )
        if self.attention == "eager":
            return (
                f"{returned} The model computes patterns, so it is no attention layer: choose that "
                "of a block; `tenterhook layers MODEL` lists them."
            )
        return (
            f"{returned} Choose the attention layer of a block, and have the model compute "
            "patterns: add --attn-implementation eager, from Python "
            "load_model(name, attn_implementation='eager')."
        )


@attrs.define(slots=False)
class NothingChosen(TenterhookError, ValueError):
    """No document has a token that is selected."""

    tokens: str
    longest: int

    def __str__(self) -> str:
        return (
            f"tokens={self.tokens!r} chooses no token of any document, so there is nothing to "
            f"capture: the longest has {self.longest:,}. Positions count a document's tokens from "
            "0, negative ones from its end."
        )


@attrs.define(slots=False)
class NotWhole(TenterhookError, ValueError):
    """A layer of which each of several processes has but a part."""

    layer: str
    processes: int
    features: int
    """Of the part that this process has."""

    def __str__(self) -> str:
        return (
            f"Layer {self.layer!r} gives each of the {self.processes} processes that hold the "
            f"model a part of its own ({self.features} features here), so no process has its "
            "rows. Capture what it is inside of, as the MLP or the attention, or the block: their "
            "outputs are whole."
        )
