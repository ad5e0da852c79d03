"""Numbers that settings may be: whole or not, and in which range; everything else is `BadSetting`.

Each range has an end on both sides. What is infinite, or so large that nothing could be meant by
it, would come out as an error of torch, much later and about something else.
"""

import math
import operator
from typing import Any

import attrs
import torch

from tenterhook_sae.errors import BadSetting

MOST = 10**12
"""No count of steps, rows or latents is larger."""

SEEDS = 2**63 - 1
"""No seed is larger."""

LARGEST = 1e9
"""No weight, rate or threshold is larger."""

WIDEST = 2**26
"""No SAE has more latents or inputs."""

BEST = 10_000
"""No more texts are kept for a latent."""


def whole(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """Return a whole number of any type as an int; `BadSetting` for what is none in the range."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or not least <= found <= most:
        upper = f" and {most:,} at most" if found is not None and found > most else ""
        raise BadSetting(name, value, f"a whole number, {least} or more{upper}")
    return found


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """Return a number, 0 or more or above 0; `BadSetting` for what is none in the range."""
    is_number = type(value) in (int, float) and math.isfinite(_float(value))
    if not is_number or not 0 <= value <= LARGEST or (positive and not value):
        what = "a positive number" if positive else "a number, 0 or more"
        high = f" and {LARGEST:.0e} at most" if is_number and value > LARGEST else ""
        raise BadSetting(name, value, f"{what}{high}")
    return float(value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_within(what: str, low: float, high: float, *, is_whole: bool = False) -> Any:
    """Return a validator for a field of an attrs class: a number from `low` to `high`.

    It has to be an int, or may be a float, of Python: settings are written as JSON.
    """

    def check(_: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        is_number = type(value) is int or (not is_whole and type(value) is float)
        if is_number and low <= value <= high:
            return
        upper = f" and {high:,} at most" if is_number and high < value < math.inf else ""
        raise BadSetting(attribute.name, value, what + upper)

    return check


def check_flag(name: str, value: Any) -> None:
    """Raise `BadSetting` for what is neither True nor False."""
    if not isinstance(value, bool):
        raise BadSetting(name, value, "True or False")


def check_dtype(dtype: Any) -> None:
    """Raise `BadSetting` for what is no dtype that weights may be in."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise BadSetting("dtype", dtype, "a floating dtype")
