"""What a capture may be told beside its model, layers and documents."""

from typing import Any, get_args

import attrs
import torch

from tenterhook.capture._errors import BadArgument
from tenterhook.capture._tokens import LongDocuments
from tenterhook.store import dtype_name, torch_dtype

ROWS_PER_UNIT = 32_768
"""Rows of a unit unless something else is asked for: what is lost to a crash at most."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


def wanted_dtype(dtype: str | torch.dtype | None) -> str | None:
    """Return the name of the dtype that rows are cast to; `BadArgument` for one they cannot be."""
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else dtype_name(dtype)
    if name not in FLOATS:
        raise BadArgument("dtype", name, f"one of {', '.join(FLOATS)}")
    return dtype_name(torch_dtype(name))


def check_count(name: str, number: object) -> None:
    """Raise `BadArgument` unless it is a whole number, 1 or more."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise BadArgument(name, number, "a whole number, 1 or more")


def _count(_: object, attribute: "attrs.Attribute[Any]", number: object) -> None:
    check_count(attribute.name, number)


def _one_of_long(_: object, attribute: "attrs.Attribute[Any]", found: object) -> None:
    if found not in get_args(LongDocuments):
        raise BadArgument(attribute.name, found, "'truncate' or 'split'")


@attrs.frozen(kw_only=True)
class CaptureOptions:
    """The options of `save_activations` that say how; plain values, kept with the run.

    A run is rebuilt from them, so whatever is added here is known to every process of it.
    """

    batch_size: int = attrs.field(default=32, validator=_count)
    dtype: str | None = attrs.field(default=None, converter=wanted_dtype)
    long_documents: LongDocuments = attrs.field(default="truncate", validator=_one_of_long)
    rows_per_unit: int = attrs.field(default=ROWS_PER_UNIT, validator=_count)
