"""What each point gives, seen on the first documents, and the arrays that a run keeps of it."""

from collections.abc import Sequence

from tenterhook_capture.chosen import ChosenRows
from tenterhook_capture.forward import Forward
from tenterhook_capture.points import Point
from tenterhook_store import LayerArray, dtype_name
from tenterhook_store.int8 import SCALE

PROBE_TOKENS = 13
"""Tokens of a document that show what a point gives; no number that models have of other things."""


def point_arrays(
    forward: Forward, rows: ChosenRows, dtype: str | None = None
) -> tuple[LayerArray, ...]:
    """Run the beginning of the first documents; return each point's width, and the dtype kept.

    Two, so that a layer that has nothing of the batch in it is found out before anything is made.
    """
    tokens = rows.tokens
    first = [tokens.window(at).ids[:PROBE_TOKENS] for at in range(min(2, tokens.window_count))]
    seen = forward(first)
    return tuple(
        LayerArray(name, found.shape[1], dtype or dtype_name(found.dtype))
        for name, found in seen.layers.items()
    )


def attention_shapes(
    points: Sequence[Point], arrays: Sequence[LayerArray], *, keys: int
) -> dict[str, dict[str, dict[str, int]]]:
    """Return under `attention` how each pattern's rows are `heads` times `keys` numbers."""
    found = {
        array.name: {"heads": array.features // keys, "keys": keys}
        for point, array in zip(points, arrays, strict=True)
        if point.side == "attention"
    }
    return {"attention": found} if found else {}


def stored_arrays(points: Sequence[LayerArray], *, keep_rows: bool) -> tuple[LayerArray, ...]:
    """Return the arrays in the store: none without rows, and a scale a row beside int8."""
    found = []
    for point in points if keep_rows else ():
        found.append(point)
        if point.dtype == "int8":
            found.append(LayerArray(point.name + SCALE, 1, "float32"))
    return tuple(found)
