"""Numbers that the dtype of a run does not hold: told once, when the units of a process are done.

Each unit's record has its counts, whoever did it, and `run.metadata` their sums over all.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import attrs

from tenterhook.errors import TenterhookWarning
from tenterhook_store import OUT_OF_RANGE, out_of_range

MANY_TOO_SMALL = 1e-3
"""Of a layer's numbers so many may become 0 without a word: activation functions give numbers near
0 by nature, and 0 is nearly what they were."""


@attrs.define(slots=False)
class ValuesLost(TenterhookWarning):
    """Rows hold numbers that the dtype they are kept in does not have."""

    layers: Mapping[str, str]
    """What became of which, by layer, in words."""

    def __str__(self) -> str:
        found = "; ".join(f"layer {name!r}: {words}" for name, words in self.layers.items())
        return (
            f"The dtype that rows are kept in does not hold all of them: {found}. The run's "
            "metadata has the counts. Leave dtype out (--dtype) to keep rows as the layer gives "
            "them, or take bfloat16 or float32."
        )


class LostValues:
    """Sums up what the records of units say, as they are done."""

    def __init__(self) -> None:
        self._out_of_range: dict[str, dict[str, int]] = {}
        self._not_finite: dict[str, int] = {}

    def add(self, facts: Mapping[str, Any]) -> None:
        """Take the record of a unit."""
        so_far = {OUT_OF_RANGE: self._out_of_range}
        self._out_of_range = out_of_range([so_far, facts])
        for layer, off in facts.get("int8", {}).items():
            rows = self._not_finite.get(layer, 0) + int(off["rows_not_finite"])
            self._not_finite[layer] = rows

    def warn(self) -> None:
        """Warn `ValuesLost` if there were any worth a word."""
        found = {}
        for layer, counts in self._out_of_range.items():
            words = []
            if counts["too_large"]:
                words.append(f"{counts['too_large']:,} are too large and became infinite")
            if counts["too_small"] > MANY_TOO_SMALL * counts["values"]:
                words.append(f"{counts['too_small']:,} are too small and became 0")
            if words:
                found[layer] = f"of {counts['values']:,} numbers {' and '.join(words)}"
        for layer, rows in self._not_finite.items():
            if rows:
                found[layer] = (
                    f"{rows:,} rows hold an infinity, NaN or a number beyond "
                    "float32, and read as NaN throughout"
                )
        if found:
            warnings.warn(ValuesLost(found), stacklevel=4)
