"""The options of a capture: what it may be told beside its model, layers and documents.

`CaptureOptions` is their one source. The keywords of `save_activations`, the options of
`tenterhook capture` and its help, `options` in a recipe and the table in
docs/reference/captures.md are read from it or compared with it by a test. Importing this imports
no torch, so that a command line can show its help at once.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args

import attrs

from tenterhook.errors import closest
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.option_fields import about, default_of, described, option
from tenterhook_store import CODECS

if TYPE_CHECKING:
    import torch

    from tenterhook_selections import Selection, Where

__all__ = [
    "DTYPES",
    "QUEUE_BYTES",
    "ROWS_PER_UNIT",
    "CaptureKeywords",
    "CaptureOptions",
    "KeywordsBesideBatchSize",
    "LongDocuments",
    "Writing",
    "shows_options",
]

LongDocuments = Literal["truncate", "split", "head"]
"""What becomes of a document longer than the model takes: it is cut as its tokenizer cuts, special
tokens and all; or run as windows that follow each other, none seeing the one before; or its first
tokens are kept and nothing else, which is how captures cut that earlier versions made."""

Writing = Literal["auto", "inline", "thread"]
"""Who writes: the thread that runs the model, another one, or whichever suits the device."""

QUEUE_BYTES = 256 << 20
"""Rows that wait for the writer at most, in bytes, unless something else is asked for."""

ROWS_PER_UNIT = 32_768
"""Rows of a unit unless something else is asked for: what is lost to a crash at most."""

FLOATS = ("float16", "bfloat16", "float32", "float64")

INT8 = "int8"
"""The dtype that is no cast: rows are kept as int8 with a float32 scale each."""

DTYPES = (*FLOATS, INT8)


def wanted_dtype(dtype: "str | torch.dtype | None") -> str | None:
    """Return the name of the dtype that rows are cast to; `BadArgument` for one they cannot be."""
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise BadArgument("dtype", name, f"one of {', '.join(DTYPES)}")
    return name


def wanted_tokens(tokens: "Where | Selection | None") -> str | None:
    """Return which tokens of a document are wanted as text, `0,-1` or `1:`; `None` for all.

    Raises `BadArgument` for a selection of anything but tokens.
    """
    if tokens is None:
        return None
    from tenterhook_selections import Selection

    if isinstance(tokens, str) and "," in tokens and "[" not in tokens:
        tokens = _numbers(tokens)
    try:
        found = tokens if isinstance(tokens, Selection) else Selection(tokens=_number(tokens))
    except ValueError as error:
        raise BadArgument("tokens", tokens, f"positions ({error})") from None
    if found.tokens is None or found != Selection(tokens=found.tokens):
        raise BadArgument("tokens", tokens, "a selection of tokens and of nothing else")
    if isinstance(found.tokens, str):
        return found.tokens
    return ",".join(map(str, found.tokens))


def is_role(tokens: str | None) -> bool:
    """Whether the tokens that are wanted are those of a role, as `user` or `user[-1]`."""
    from tenterhook_selections.roles import is_role

    return tokens is not None and is_role(tokens)


def selected(tokens: str | None) -> "Selection | None":
    """Return what `wanted_tokens` gave as a selection."""
    if tokens is None:
        return None
    from tenterhook_selections import Selection

    if is_role(tokens):
        return Selection(tokens=tokens)
    return Selection(tokens=tokens if ":" in tokens else _numbers(tokens))


def _number(tokens: Any) -> Any:
    return _numbers(tokens) if isinstance(tokens, str) and _is_number(tokens) else tokens


def _is_number(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_number, parts)):
        raise BadArgument("tokens", text, "positions, as '0,-1', '1:' or 'last'")
    return tuple(map(int, parts))


def wanted_reductions(kinds: str | Sequence[str]) -> tuple[str, ...]:
    """Return the reductions that are asked for, as a list or with commas, each once, in order.

    Raises `BadArgument` for a word that is none.
    """
    asked = [each.strip() for each in kinds.split(",")] if isinstance(kinds, str) else [*kinds]
    if not asked:
        return ()
    from tenterhook_store import REDUCTIONS

    for each in asked:
        if each not in REDUCTIONS:
            raise BadArgument("reduce", each, f"one or more of {', '.join(REDUCTIONS)}")
    return tuple(each for each in REDUCTIONS if each in asked)


_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def wanted_bytes(keep: "int | str | None") -> int | None:
    """Return a number of bytes, as `200MB` or `1.5 GiB` say it too; `BadArgument` for another."""
    if keep is None or (isinstance(keep, int) and not isinstance(keep, bool) and keep > 0):
        return keep
    text = keep.strip().lower() if isinstance(keep, str) else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text, re.ASCII)
    size = int(float(found[1]) * _SIZES.get(found[2], 0)) if found else 0
    if not size:
        raise BadArgument("keep", keep, "a number of bytes, as 200MB, 1.5GiB or 200000000")
    return size


@attrs.frozen(kw_only=True)
class CaptureOptions:
    """The options of `save_activations` that say how; plain values, kept with the run.

    A run is rebuilt from them, so whatever is added here is known to every process of it.
    """

    batch_size: int | None = option(
        None,
        help="Documents at once, in their order; by default as many as a budget of tokens allows, "
        "those of about one length together.",
        group="Batches",
        least=1,
    )
    dtype: str | None = attrs.field(
        default=None,
        converter=wanted_dtype,
        metadata=about(
            "Cast the rows; by default they are kept in the dtype that the layer gives. int8 has a "
            "float32 scale for each row.",
            "Rows",
            choices=DTYPES,
        ),
    )
    long_documents: LongDocuments = option(  # noqa: RUF009 - it is a field
        "truncate",
        help="What becomes of documents longer than the model takes: cut as the tokenizer cuts, "
        "special tokens kept; split into windows; or their first tokens alone, head.",
        group="Batches",
        choices=get_args(LongDocuments),
    )
    rows_per_unit: int = option(
        ROWS_PER_UNIT,
        help="Tokens of a unit of work: the most that is done again after a stop.",
        group="Batches",
        least=1,
    )
    batch_tokens: int | None = option(
        None,
        help="Tokens at once at most, padding counted; a longer document runs alone. Chosen for "
        "model and device, unless it or `batch_size` is given.",
        group="Batches",
        least=1,
    )
    bucket: bool | None = option(
        None,
        help="Run documents by length, the longest first, which needs less padding; done unless "
        "`batch_size` is given.",
        group="Batches",
    )
    no_special_tokens: bool = option(
        False,
        help="Have the tokenizer add no special tokens, where the texts bring their own.",
        group="What is captured",
    )
    window_special_tokens: bool = option(
        False,
        help="Have each window of a split document begin and end with the special tokens; goes "
        "with `long_documents` split.",
        group="Batches",
    )
    tokens: str | None = attrs.field(
        default=None,
        converter=wanted_tokens,
        metadata=about(
            "Keep these tokens of each document: 'last', '0,-1', or a slice such as '1:'.", "Rows"
        ),
    )
    reduce: tuple[str, ...] = attrs.field(
        default=(),
        converter=wanted_reductions,
        metadata=about(
            "Keep statistics and no rows: of mean, var, cov, quantiles, topk, with commas.",
            "Rows",
            takes_list=True,
        ),
    )
    top_k: int = option(
        20,
        help="How many tokens topk keeps for each feature; goes with `reduce`.",
        group="Rows",
        least=1,
    )
    keep_rows: bool = attrs.field(
        default=attrs.Factory(lambda it: not it.reduce, takes_self=True),
        metadata=about("With `reduce`, keep the rows too.", "Rows"),
    )
    writing: Writing = option(  # noqa: RUF009 - it is a field
        "auto",
        help="Who writes: a thread beside the forwards, or none; auto: a thread on accelerators.",
        group="Writing",
        choices=get_args(Writing),
    )
    queue_bytes: int = option(
        QUEUE_BYTES,
        help="Bytes of rows that wait for a writing thread at most.",
        group="Writing",
        least=1,
    )
    codec: str = option(
        "none",
        help="How rows are compressed; what is read is the same.",
        group="Rows",
        choices=CODECS,
    )
    keep: int | None = attrs.field(
        default=None,
        converter=wanted_bytes,
        metadata=about(
            "Hold so many bytes of rows at once, as 200MB: units wait for room, and are dropped "
            "once all who follow the run have read them.",
            "Writing",
        ),
    )

    @keep_rows.validator
    def _check_keeps_something(self, _: object, keep_rows: bool) -> None:
        if not keep_rows and not self.reduce:
            raise BadArgument("keep_rows", keep_rows, "True where nothing is reduced")

    @keep.validator
    def _check_keep(self, _: object, keep: int | None) -> None:
        if keep is not None and not self.keep_rows:
            raise BadArgument("keep", keep, "left out where no rows are kept (reduce)")

    @window_special_tokens.validator
    def _check_windows(self, _: object, window_special_tokens: bool) -> None:
        if window_special_tokens and self.long_documents != "split":
            expected = "False unless long_documents='split' makes windows"
            raise BadArgument("window_special_tokens", True, expected)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "CaptureOptions":
        """Return those that `CaptureKeywords` say, where `keep_rows=None` is its default too.

        Raises `TypeError` for a keyword that is no option, `BadArgument`.
        """
        known = [*described(cls)]
        for name in settings:
            if name not in known:
                meant = closest(name, known)[0]
                raise TypeError(f"{name!r} is no option of a capture. Did you mean {meant!r}?")
        given = {key: value for key, value in settings.items() if key != "keep_rows"}
        if settings.get("keep_rows") is not None:
            given["keep_rows"] = settings["keep_rows"]
        return cls(**given)


class KeywordsBesideBatchSize(TypedDict, total=False):
    """`CaptureKeywords` for a call that has a parameter `batch_size` of its own."""

    dtype: "str | torch.dtype | None"
    long_documents: LongDocuments
    rows_per_unit: int
    batch_tokens: int | None
    bucket: bool | None
    no_special_tokens: bool
    window_special_tokens: bool
    tokens: "Where | Selection | None"
    reduce: str | Sequence[str]
    top_k: int
    keep_rows: bool | None
    writing: Writing
    queue_bytes: int
    codec: str
    keep: "int | str | None"


class CaptureKeywords(KeywordsBesideBatchSize, total=False):
    """The fields of `CaptureOptions` as keywords, for type checkers and editors alone.

    A test holds names and types to those of the class.
    """

    batch_size: int | None


Call = TypeVar("Call", bound=Callable[..., Any])


def shows_options(call: Call) -> Call:
    """Have `help`, and editors that ask a running Python, show the options that `**options` are."""
    signature = inspect.signature(call)
    own = [
        each
        for each in signature.parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default_of(field),
        )
        for name, (field, _) in described(CaptureOptions).items()
        if name not in signature.parameters
    ]
    call.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return call
