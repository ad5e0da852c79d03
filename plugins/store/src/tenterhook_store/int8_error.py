"""How far rows that are stored as int8 are from what the layer gave, summed up from units' records.

Numbers alone: importing this imports no torch.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

SCALE = ":scale"
"""What the array of scales is called: the layer's name, and this."""


@attrs.frozen(kw_only=True)
class Int8Error:
    """How far the rows of a layer are from what the layer gave, over the units committed."""

    max_error: float
    """The largest difference of one number."""
    relative_rms_error: float
    """Root of the summed squared differences over that of the summed squares."""
    rows_not_finite: int
    """Rows with an infinity or NaN, which read as NaN and are in neither figure."""


def int8_errors(units: Iterable[Mapping[str, Any]]) -> dict[str, Int8Error]:
    """Sum up what the records of units say, by layer."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for unit in units:
        for layer, facts in unit.get("int8", {}).items():
            found.setdefault(layer, []).append(facts)
    return {layer: _summed(facts) for layer, facts in found.items()}


def _summed(facts: list[Mapping[str, float]]) -> Int8Error:
    error, total = (math.fsum(each[key] for each in facts) for key in ("squared_error", "squared"))
    return Int8Error(
        max_error=max(each["max_error"] for each in facts),
        relative_rms_error=math.sqrt(error / total) if total else 0.0,
        rows_not_finite=int(sum(each["rows_not_finite"] for each in facts)),
    )
