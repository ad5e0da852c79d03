"""Documents that are token ids already, kept as the text of their JSON.

So they are read lazily, counted and told apart as texts are, and as conversations are. A model
reads them as they are: nothing is added, and no tokenizer is asked.
"""

import json
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from tenterhook_capture.document_errors import UnreadableData

IDS = "input_ids"
"""The field of records that holds token ids."""

MASK = "attention_mask"
"""The field beside it that says which of them are no padding, 1 or true."""

LARGEST = 2**31 - 1
"""No id is larger: stores keep int32."""


def as_list(value: Any) -> Any:
    """Return a tensor, or an array of numpy, as lists and numbers of Python; others as they are."""
    kind = type(value)
    is_array = hasattr(value, "tolist") and hasattr(value, "dtype") and hasattr(value, "ndim")
    if is_array and kind.__module__.partition(".")[0] in ("torch", "numpy"):
        # Rows of a nested tensor are not of one length, and it has no list of its own.
        rows = value.unbind() if getattr(value, "is_nested", False) else None
        return value.tolist() if rows is None else [row.tolist() for row in rows]
    return value


def is_ids(value: Any) -> bool:
    """Whether it is a list of whole numbers, or a tensor or array of them in one dimension."""
    found = as_list(value)
    return isinstance(found, list | tuple) and all(map(_is_id, found))


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # numpy's own ints too


def ids_text(value: Any, where: str, mask: Any = None) -> str:
    """Return token ids as JSON, without those that the mask says are padding.

    Raises `UnreadableData`, which says where.
    """
    found, real = as_list(value), as_list(mask)
    if not isinstance(found, list | tuple):
        kind = type(value).__name__
        raise UnreadableData(where, f"it is a {kind}, and must be a list of token ids")
    for at, id in enumerate(found):
        if not _is_id(id) or not 0 <= id <= LARGEST:
            reason = f"token {at} is {id!r}, and a token id is a whole number from 0"
            raise UnreadableData(where, reason)
    if real is not None:
        if not isinstance(real, list | tuple) or len(real) != len(found):
            raise UnreadableData(where, f"{MASK!r} is not as long as its {len(found)} token ids")
        found = [id for id, is_real in zip(found, real, strict=True) if is_real]
    return json.dumps([int(id) for id in found], separators=(",", ":"))


def parse_ids(text: str) -> list[int]:
    """Return the token ids that `ids_text` wrote."""
    ids: list[int] = json.loads(text)
    return ids


def check_ids(ids: Sequence[int], count: int | None, where: str) -> None:
    """Raise `UnreadableData` for an id that a model of so many tokens does not have."""
    if count is not None and ids and max(ids) >= count:
        raise UnreadableData(
            where, f"token id {max(ids)} is none of the model's, which go from 0 to {count - 1}"
        )
