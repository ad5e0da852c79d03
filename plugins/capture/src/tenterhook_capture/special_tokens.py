"""Special tokens around a document, and what is kept of a document that is too long.

A tokenizer puts tokens before a text and after it: `<s>`, `[CLS]` and `[SEP]`, `</s>`. Where it
cuts a text itself it cuts the text, and these stay. Documents are cut in the same way here, after
they were tokenized whole, so that what was cut is counted and windows can follow each other.
"""

from collections.abc import Sequence
from typing import Literal

import attrs

from tenterhook.errors import TenterhookWarning
from tenterhook_capture.errors import BadArgument

INSERTED = -1
"""Stands for a token that was put before or after a window, and is none of the document's."""


class DoubledSpecialToken(TenterhookWarning):
    """Texts begin with a special token that the tokenizer puts before them once more."""


def _ids(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids)


@attrs.frozen(kw_only=True)
class SpecialTokens:
    """What a tokenizer puts around a text, and which end of a text it keeps."""

    before: tuple[int, ...] = attrs.field(default=(), converter=_ids)
    after: tuple[int, ...] = attrs.field(default=(), converter=_ids)
    keeps: Literal["start", "end"] = attrs.field(
        default="start", validator=attrs.validators.in_(("start", "end"))
    )
    """Which end is kept of a text that is cut; `"end"` where a tokenizer truncates on the left."""

    def without(self) -> "SpecialTokens":
        """Return those of a text to which nothing is added."""
        return SpecialTokens(keeps=self.keeps)

    def doubled(self, ids: Sequence[int]) -> bool:
        """Whether a text's first special token is there twice."""
        count = len(self.before)
        return bool(count) and tuple(ids[: count + 1]) == (*self.before, self.before[0])

    def _inside(self, ids: Sequence[int]) -> range:
        """Return which of a document's tokens are neither before nor after it."""
        first, last = len(self.before), len(ids) - len(self.after)
        begins = tuple(ids[:first]) == self.before
        ends = last >= first and tuple(ids[last:]) == self.after
        return range(first if begins else 0, last if ends else len(ids))


def cut(ids: Sequence[int], limit: int, special: SpecialTokens) -> list[int]:
    """Return which tokens are kept of a document that has more than `limit`: their positions.

    Those that `truncation=True` keeps: the special tokens, and of the text what has room between
    them.
    """
    inside = special._inside(ids)
    around = [*range(inside.start)], [*range(inside.stop, len(ids))]
    room = limit - len(around[0]) - len(around[1])
    if room <= 0:
        return [*range(limit)]
    kept = inside[:room] if special.keeps == "start" else inside[-room:]
    return [*around[0], *kept, *around[1]]


def windows(ids: Sequence[int], limit: int, special: SpecialTokens) -> list[int]:
    """Return the tokens of windows with special tokens around each: positions, or `INSERTED`.

    The windows stand one after another. Each but the last has `limit` tokens. Raises `BadArgument`
    where special tokens leave no room.
    """
    room = limit - len(special.before) - len(special.after)
    if room <= 0:
        around = len(special.before) + len(special.after)
        expected = f"False for a model that takes {limit} tokens, of which {around} are special"
        raise BadArgument("window_special_tokens", True, expected)
    inside = special._inside(ids)
    found: list[int] = []
    for start in range(0, len(inside), room):
        found += [INSERTED] * len(special.before)
        found += inside[start : start + room]
        found += [INSERTED] * len(special.after)
    return found


def window_ids(
    ids: Sequence[int], places: Sequence[int], limit: int, special: SpecialTokens
) -> list[int]:
    """Return the ids of what `windows` gave."""
    found = [ids[place] if place != INSERTED else 0 for place in places]
    for start in range(0, len(found), limit):
        stop = min(start + limit, len(found))
        found[start : start + len(special.before)] = special.before
        found[stop - len(special.after) : stop] = special.after
    return found
