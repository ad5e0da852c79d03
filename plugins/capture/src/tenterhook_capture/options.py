"""What a capture may be told beside its model, layers and documents."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import attrs
import torch

from tenterhook_capture.errors import BadArgument
from tenterhook_selections import Selection, Where
from tenterhook_store import CODECS, REDUCTIONS, dtype_name, torch_dtype

LongDocuments = Literal["truncate", "split"]
"""What becomes of a document longer than the model takes: its first tokens are kept, or it is run
as windows that follow each other, none seeing the one before."""

Writing = Literal["auto", "inline", "thread"]
"""Who writes: the thread that runs the model, another one, or whichever suits the device."""

QUEUE_BYTES = 256 << 20
"""Rows that wait for the writer at most, in bytes, unless something else is asked for."""

ROWS_PER_UNIT = 32_768
"""Rows of a unit unless something else is asked for: what is lost to a crash at most."""

FLOATS = ("float16", "bfloat16", "float32", "float64")

INT8 = "int8"
"""The dtype that is no cast: rows are kept as int8 with a float32 scale each."""


def wanted_dtype(dtype: str | torch.dtype | None) -> str | None:
    """Return the name of the dtype that rows are cast to; `BadArgument` for one they cannot be."""
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else dtype_name(dtype)
    if name not in (*FLOATS, INT8):
        raise BadArgument("dtype", name, f"one of {', '.join((*FLOATS, INT8))}")
    return dtype_name(torch_dtype(name))


def wanted_tokens(tokens: "Where | Selection | None") -> str | None:
    """Return which tokens of a document are wanted as text, `0,-1` or `1:`; `None` for all.

    Raises `BadArgument` for a selection of anything but tokens.
    """
    if tokens is None:
        return None
    if isinstance(tokens, str) and "," in tokens:
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


def selected(tokens: str | None) -> Selection | None:
    """Return what `wanted_tokens` gave as a selection."""
    if tokens is None:
        return None
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
    """Return the reductions that are asked for, as a list or with commas, each once, in order."""
    asked = [each.strip() for each in kinds.split(",")] if isinstance(kinds, str) else [*kinds]
    for each in asked:
        if each not in REDUCTIONS:
            raise BadArgument("reduce", each, f"one or more of {', '.join(REDUCTIONS)}")
    return tuple(each for each in REDUCTIONS if each in asked)


def check_count(name: str, number: object) -> None:
    """Raise `BadArgument` unless it is a whole number, 1 or more."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise BadArgument(name, number, "a whole number, 1 or more")


def _count(_: object, attribute: "attrs.Attribute[Any]", number: object) -> None:
    check_count(attribute.name, number)


def _one_of_long(_: object, attribute: "attrs.Attribute[Any]", found: object) -> None:
    if found not in get_args(LongDocuments):
        raise BadArgument(attribute.name, found, "'truncate' or 'split'")


def _one_of_writing(_: object, attribute: "attrs.Attribute[Any]", found: object) -> None:
    if found not in get_args(Writing):
        raise BadArgument(attribute.name, found, "'auto', 'inline' or 'thread'")


def _one_of_codecs(_: object, attribute: "attrs.Attribute[Any]", found: object) -> None:
    if found not in CODECS:
        raise BadArgument(attribute.name, found, f"one of {', '.join(CODECS)}")


def _count_if_any(_: object, attribute: "attrs.Attribute[Any]", number: object) -> None:
    if number is not None:
        check_count(attribute.name, number)


@attrs.frozen(kw_only=True)
class CaptureOptions:
    """The options of `save_activations` that say how; plain values, kept with the run.

    A run is rebuilt from them, so whatever is added here is known to every process of it.
    """

    batch_size: int = attrs.field(default=32, validator=_count)
    dtype: str | None = attrs.field(default=None, converter=wanted_dtype)
    long_documents: LongDocuments = attrs.field(default="truncate", validator=_one_of_long)
    rows_per_unit: int = attrs.field(default=ROWS_PER_UNIT, validator=_count)
    batch_tokens: int | None = attrs.field(default=None, validator=_count_if_any)
    bucket: bool = False
    tokens: str | None = attrs.field(default=None, converter=wanted_tokens)
    reduce: tuple[str, ...] = attrs.field(default=(), converter=wanted_reductions)
    top_k: int = attrs.field(default=20, validator=_count)
    keep_rows: bool = attrs.field(default=attrs.Factory(lambda it: not it.reduce, takes_self=True))
    writing: Writing = attrs.field(default="auto", validator=_one_of_writing)
    queue_bytes: int = attrs.field(default=QUEUE_BYTES, validator=_count)
    codec: str = attrs.field(default="none", validator=_one_of_codecs)

    @keep_rows.validator
    def _check_keeps_something(self, _: object, keep_rows: bool) -> None:
        if not keep_rows and not self.reduce:
            raise BadArgument("keep_rows", keep_rows, "True where nothing is reduced")
