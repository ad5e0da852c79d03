"""What can go wrong with a store; each error is a builtin kind too and keeps its facts.

attrs writes `__init__`, `args` and what pickling needs from the fields. The classes have no slots:
attrs would restore slots alone from a pickle, and lose the notes of an error that crosses processes
(test_errors_survive_pickling).
"""

import errno
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import attrs

from tenterhook.errors import TenterhookError, closest


def _as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@attrs.define(slots=False)
class BadName(TenterhookError, ValueError):
    """A name that a store would not keep safely."""

    kind: str
    name: Any
    reason: str

    def __str__(self) -> str:
        shown = repr(self.name)
        if len(shown) > 60:
            shown = f"{shown[:40]}...{shown[-10:]}"
        article = "an" if self.kind[0] in "aeiou" else "a"
        return f"{shown} cannot name {article} {self.kind}: {self.reason}."


@attrs.define(slots=False)
class NameTaken(TenterhookError, ValueError):
    """A name that differs from a standing one only in ways some file systems do not see."""

    kind: str
    name: str
    standing: str

    def __str__(self) -> str:
        return (
            f"{self.name!r} cannot name a {self.kind}: there is {self.standing!r}, which some file "
            "systems take for the same. Use that name, or another."
        )


@attrs.define(slots=False)
class OverBudget(TenterhookError, MemoryError):
    """A capture in a scope would hold more memory than it may."""

    layer: str
    tensor: str
    """What the layer gave: `float32 [4, 128, 768]`."""
    size: int
    """Its bytes."""
    held: int
    """The bytes that the capture holds already."""
    budget: int
    in_transform: bool = False
    """Whether a transform of `torch.func` keeps it from the store that is there."""

    def __str__(self) -> str:
        text = (
            f"Layer {self.layer!r} gave {_amount(self.size)} ({self.tensor}), and the capture "
            f"holds {_amount(self.held)} of its budget of {_amount(self.budget)}. "
        )
        if self.in_transform:
            return f"{text}Inside a transform of torch.func nothing goes to the store."
        return (
            f"{text}Capture fewer layers or tokens (tokens='last'), keep less of each "
            "(dtype='bfloat16', features=), take out what you have used (captured[layer].pop(0)), "
            "or give a store for the rest: capture(..., budget=, store=LocalStore(folder))."
        )


def _amount(size: int) -> str:
    """Return bytes as people say them: `1.5 MiB`."""
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.4g} {unit}"


@attrs.define(slots=False)
class CannotKeep(TenterhookError, TypeError):
    """Something of a kind that a store has no place for."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"A store keeps no {self.what}. {self.remedy}"


@attrs.define(slots=False)
class UnknownRun(TenterhookError, LookupError):
    """No run of that id in the store."""

    run_id: str
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)
    location: str

    def __str__(self) -> str:
        hint = _nearest(self.run_id, self.known, "See `tenterhook runs list`.")
        return f"No run {self.run_id!r} in the store {self.location}. {hint}"


@attrs.define(slots=False)
class AmbiguousRun(TenterhookError, LookupError):
    """A store was named, and not which of its runs is meant."""

    location: str
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)

    def __str__(self) -> str:
        there = f"It holds {', '.join(self.known)}." if self.known else "It holds none."
        return f"Name the run of the store {self.location}: STORE RUN, or STORE/runs/RUN. {there}"


@attrs.define(slots=False)
class UnknownTensor(TenterhookError, LookupError):
    """No tensor of that name in the store."""

    name: str
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)
    location: str

    def __str__(self) -> str:
        hint = _nearest(self.name, self.known, "list_tensors() lists those there are.")
        return f"No tensor {self.name!r} in the store {self.location}. {hint}"


@attrs.define(slots=False)
class NotReduced(TenterhookError, LookupError):
    """A statistic of a run that was not computed as it was captured, or of no rows yet."""

    what: str
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)
    run_id: str

    def __str__(self) -> str:
        if self.what in ("mean", "var", "cov", "quantiles", "topk") and not self.known:
            return (
                f"Run {self.run_id!r} has no {self.what!r}: it was captured without it "
                f"(reduce={self.what!r}), or none of its units is committed yet."
            )
        return f"Run {self.run_id!r} has no {self.what!r}. It has {', '.join(self.known)}."


@attrs.define(slots=False)
class NotKept(TenterhookError, LookupError):
    """A unit of a run has no tensor of that name, or is not committed."""

    name: str
    unit: int
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)
    run_id: str

    def __str__(self) -> str:
        otherwise = f"It has {', '.join(self.known)}." if self.known else "It has none."
        hint = _nearest(self.name, self.known, otherwise)
        return f"Unit {self.unit} of run {self.run_id!r} has no tensor {self.name!r}. {hint}"


@attrs.define(slots=False)
class NoDocumentField(TenterhookError, KeyError):
    """A run keeps no such field of its documents."""

    field: Any
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)
    run_id: str

    def __str__(self) -> str:
        otherwise = "It keeps none. `keep_fields=` (--keep-field) has a capture keep some."
        if self.known:
            otherwise = f"It keeps {', '.join(map(repr, self.known))}."
        hint = _nearest(str(self.field), self.known, otherwise)
        return f"Run {self.run_id!r} keeps no field {self.field!r} of its documents. {hint}"


@attrs.define(slots=False)
class NoSpans(TenterhookError, LookupError):
    """A run does not say which characters its tokens are."""

    run_id: str

    def __str__(self) -> str:
        return (
            f"Run {self.run_id!r} has no spans: it was begun before runs had them, is of token "
            "ids, or its tokenizer does not say which characters a token is (those that "
            "transformers calls fast do). Tokenize the documents again, "
            "tokenizer(texts, return_offsets_mapping=True), or capture them under another name."
        )


@attrs.define(slots=False)
class CannotAlign(TenterhookError, ValueError):
    """Two runs have no rows that could be paired, or nobody knows which."""

    run_a: str
    run_b: str
    reason: str

    def __str__(self) -> str:
        return f"Runs {self.run_a!r} and {self.run_b!r} cannot be aligned: {self.reason}."


@attrs.define(slots=False)
class OtherAlignment(TenterhookError, ValueError):
    """An alignment of that name is there, and is another one."""

    name: str
    location: str

    def __str__(self) -> str:
        return (
            f"Alignment {self.name!r} is in the store {self.location} already, and is of other "
            "runs, or of what they were then. Give another name (name=, --name), or overwrite it "
            "(overwrite=True, --overwrite)."
        )


@attrs.define(slots=False)
class UnknownAlignment(TenterhookError, LookupError):
    """No alignment of that name in the store."""

    name: str
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)
    location: str

    def __str__(self) -> str:
        there = f"It holds {', '.join(self.known)}." if self.known else "It holds none."
        hint = _nearest(self.name, self.known, f"{there} `tenterhook runs align` makes them.")
        return f"No alignment {self.name!r} in the store {self.location}. {hint}"


@attrs.define(slots=False)
class NotCaptured(TenterhookError, KeyError):
    """A run has no rows of that layer."""

    layer: Any
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)
    run_id: str

    def __str__(self) -> str:
        hint = _nearest(str(self.layer), self.known, f"It has {', '.join(self.known)}.")
        return f"Run {self.run_id!r} has no layer {self.layer!r}. {hint}"


@attrs.define(slots=False)
class RowOutOfRange(TenterhookError, IndexError):
    """A row that an array does not have."""

    row: int
    rows: int
    name: str

    def __str__(self) -> str:
        return f"Row {self.row} is not among the {self.rows} rows of {self.name!r}."


@attrs.define(slots=False)
class MissingRows(RowOutOfRange):
    """A row of a unit that was not committed when the run was opened."""

    row: int
    unit: int
    unit_rows: tuple[int, int]
    there: int
    rows: int
    run_id: str
    name: str = attrs.field(init=False)

    @name.default
    def _name_of_run(self) -> str:
        return self.run_id

    def __str__(self) -> str:
        start, stop = self.unit_rows
        return (
            f"Row {self.row} is of unit {self.unit} of run {self.run_id!r} (rows {start} to "
            f"{stop}), which is missing: {self.there} of the run's {self.rows} rows are there. "
            "run.ranges says which, and missing='skip' loads and exports them. Open the run again "
            "if it is being written; `tenterhook runs status` says what failed, and "
            "`tenterhook runs resume` does what is missing."
        )


@attrs.define(slots=False)
class DroppedRows(MissingRows):
    """A row that a run with a limit does not hold any more."""

    keep: int
    """The limit, in bytes."""

    def __str__(self) -> str:
        start, stop = self.unit_rows
        return (
            f"Row {self.row} is of unit {self.unit} of run {self.run_id!r} (rows {start} to "
            f"{stop}), which was dropped: the run was begun with keep={self.keep}, and holds the "
            "rows of so many bytes at once, until all who follow it have read them. run.ranges "
            "says which are there; capture without keep (--keep), under another run name, to have "
            "all."
        )


@attrs.define(slots=False)
class CannotDrop(TenterhookError, TypeError):
    """A store cannot drop the rows of units, which a run with a limit needs."""

    location: str

    def __str__(self) -> str:
        return (
            f"The store {self.location} cannot drop units of a run, so that no run in it can have "
            "a limit. Leave keep (--keep) out, or write to a store that can, as a LocalStore."
        )


@attrs.define(slots=False)
class UnitHeldBack(TenterhookError, RuntimeError):
    """A unit has no room before another one, which failed."""

    unit: int
    failed: int
    run_id: str

    def __str__(self) -> str:
        return (
            f"Unit {self.unit} of run {self.run_id!r} has no room before followers have read unit "
            f"{self.failed}, which failed: units are read in their order."
        )


@attrs.define(slots=False)
class WrongIndex(TenterhookError, IndexError):
    """An index that does not fit the array of rows it is for."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"This does not index {self.name!r}: {self.reason}."


@attrs.define(slots=False)
class NoTokenizer(TenterhookError, LookupError):
    """The tokenizer of a run's tokens cannot be had."""

    run_id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"No tokenizer for run {self.run_id!r}: {self.reason}. "
            "Pass one: run.decode(rows, tokenizer)."
        )


@attrs.define(slots=False)
class BadSetting(TenterhookError, ValueError):
    """A setting has a value that it cannot have."""

    name: str
    value: Any
    expected: str
    """What it may be, in words."""

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} must be {self.expected}."


@attrs.define(slots=False)
class UnknownFormat(TenterhookError, LookupError):
    """No installed plugin exports runs in that format."""

    name: str
    known: tuple[str, ...] = attrs.field(converter=_as_tuple)

    def __str__(self) -> str:
        there = f"There are {', '.join(self.known)}." if self.known else "There is none."
        return (
            f"No installed plugin exports runs as {self.name!r}. {there} "
            "`tenterhook plugins list` says which plugins are there."
        )


@attrs.define(slots=False)
class OtherLoader(TenterhookError, ValueError):
    """The state of a loader that gives other batches than this one."""

    differences: tuple[str, ...] = attrs.field(converter=_as_tuple)

    def __str__(self) -> str:
        return (
            f"This state is of a loader that gives other batches ({'; '.join(self.differences)}). "
            "Make the loader with the settings it had, or begin anew."
        )


class _PathError(TenterhookError, OSError):
    """An error about a place; `path` and `reason` say which and why.

    Written by hand: `OSError.__init__` sets `errno` and `filename`, and attrs does not call it.
    """

    code = errno.EIO

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(self.code, reason, path)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason), vars(self)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class NotAStore(_PathError, FileExistsError):
    """The place holds something that is no store of ours."""

    code = errno.EEXIST


class PlaceTaken(_PathError, FileExistsError):
    """A folder that was to be written holds something."""

    code = errno.EEXIST


class NoStore(_PathError, FileNotFoundError):
    """There is no store at that place."""

    code = errno.ENOENT


class NotWritable(_PathError, PermissionError):
    """Nothing can be written at that place."""

    code = errno.EACCES


class Unreachable(_PathError, ConnectionError):
    """The place of a store fails, does not answer, or lets nobody in."""

    code = errno.EHOSTUNREACH


@attrs.define(slots=False)
class OtherRun(TenterhookError, ValueError):
    """A run of that id is there and was made from another plan."""

    run_id: str
    differences: tuple[str, ...] = attrs.field(converter=_as_tuple)

    @property
    def shown(self) -> str:
        """The first differences, for people."""
        more = len(self.differences) - 3
        return "; ".join(self.differences[:3]) + (f"; and {more} more" if more > 0 else "")

    def __str__(self) -> str:
        return (
            f"Run {self.run_id!r} is there already and is another one ({self.shown}). "
            "Give the options that it was begun with, or another run name."
        )


class ReplacedRun(OtherRun):
    """A run that was opened is another one in the process that it was sent to."""

    def __str__(self) -> str:
        return (
            f"Run {self.run_id!r} is not the one that was opened: it was deleted, and another was "
            f"made under its name ({self.shown}). Open it again."
        )


@attrs.define(slots=False)
class IncompleteRun(TenterhookError, RuntimeError):
    """A run that was to be finished lacks units."""

    run_id: str
    missing: Sequence[int]

    def __str__(self) -> str:
        return (
            f"Run {self.run_id!r} lacks {len(self.missing)} units, the first of them "
            f"{self.missing[0]}. The command that began it, given again, goes on."
        )


@attrs.define(slots=False)
class DeletedRun(TenterhookError, RuntimeError):
    """A run was deleted while it was being written."""

    run_id: str

    def __str__(self) -> str:
        return (
            f"Run {self.run_id!r} is gone: it, or its store, was deleted or moved while it was "
            "being written. The command that began it, given again, begins it anew."
        )


@attrs.define(slots=False)
class WrongRows(TenterhookError, ValueError):
    """Rows that do not fit the plan of their run."""

    array: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.array!r} was planned as {self.expected} and given {self.found}."


@attrs.define(slots=False)
class DamagedStore(TenterhookError, RuntimeError):
    """Files of a store are gone or are not what was written."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def _nearest(name: str, known: Collection[str], otherwise: str) -> str:
    close = closest(name, known) if known else []
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else otherwise
