"""The rows of one forward of an engine that batches continuously: whose they are, and where.

Such an engine gives its model the tokens of many requests as one flat batch: of one request a piece
of its prompt, of others one new token each. A `Step` says which rows are whose. A `Passed` keeps,
for one request, which of its tokens have passed through the model so far. A token may pass again:
after its request was preempted, or where a draft was rejected and another token has its place. And
it may never pass: where what the model kept of it came from another request's, a cached prefix.
"""

from collections.abc import Iterable, Sequence

import attrs

MISSING = -1
"""Stands for the id of a token that has not passed."""


@attrs.frozen
class Rows:
    """What one step has of one request: tokens one after the other, in rows one after the other."""

    request: str
    first: int
    """The flat row of the first of them."""
    start: int
    """The position of the first of them in the request's text, from 0 on."""
    ids: Sequence[int]
    """Their ids, by position."""

    @property
    def stop(self) -> int:
        """The flat row after the last of them."""
        return self.first + len(self.ids)

    @property
    def end(self) -> int:
        """The position after the last of them."""
        return self.start + len(self.ids)


@attrs.frozen
class Step:
    """One forward of an engine: which of its flat rows are whose.

    Rows of no request (padding, requests of no interest) stand in none of its parts.
    """

    parts: Sequence[Rows] = attrs.field(converter=tuple[Rows, ...])
    """In the order of their rows."""

    @parts.validator
    def _check(self, _: object, parts: Sequence[Rows]) -> None:
        seen = set[str]()
        row = 0
        for part in parts:
            if part.request in seen:
                raise ValueError(
                    f"Request {part.request!r} stands twice in one step. Its tokens of a step are "
                    "one part, in the order of their positions."
                )
            if part.first < row or part.start < 0:
                raise ValueError(
                    f"Request {part.request!r} has rows from {part.first} and positions from "
                    f"{part.start}, after rows up to {row}. Parts come in the order of their rows "
                    "and do not overlap."
                )
            seen.add(part.request)
            row = part.stop

    @property
    def rows(self) -> int:
        """How many rows the flat batch has at least."""
        return self.parts[-1].stop if self.parts else 0

    @classmethod
    def of(cls, scheduled: Iterable[tuple[str, int, Sequence[int]]]) -> "Step":
        """Return the step of requests that follow each other without gaps from row 0 on.

        Each is its id, the position of its first token in this step, and the ids of its tokens.
        """
        parts, row = [], 0
        for request, start, ids in scheduled:
            parts.append(Rows(request, row, start, ids))
            row += len(ids)
        return cls(parts)


@attrs.frozen
class Passage:
    """What is new about a request's tokens in one step."""

    fresh: Sequence[int]
    """Which of them have not passed yet, counted from the first of the step."""
    forgotten: int | None = None
    """The position from which on what has passed is no more of the text; `None` where all is."""


class Passed:
    """Which tokens of one request have passed through the model, and as which ids."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        """By position; `MISSING` for one that has not passed, and later ones have."""

    def look(self, start: int, ids: Sequence[int]) -> Passage:
        """Say what is new about tokens that are to pass, and change nothing."""
        known = len(self.ids)
        if start >= known:
            return Passage(range(len(ids)))
        overlap = min(known - start, len(ids))
        before = self.ids[start : start + overlap]
        if before == list(ids[:overlap]):
            return Passage(range(overlap, len(ids)))
        fresh = []
        for at, (was, now) in enumerate(zip(before, ids, strict=False)):
            if was == MISSING:
                fresh.append(at)
            elif was != now:
                return Passage([*fresh, *range(at, len(ids))], start + at)
        return Passage([*fresh, *range(overlap, len(ids))])

    def enter(self, start: int, ids: Sequence[int], passage: Passage) -> None:
        """Take note of tokens that have passed."""
        if passage.forgotten is not None:
            del self.ids[passage.forgotten :]
        if start > len(self.ids):
            self.ids += [MISSING] * (start - len(self.ids))
        self.ids[start : start + len(ids)] = ids

    def missing(self, stop: int) -> list[int]:
        """Return the positions below `stop` that have not passed."""
        found = [at for at, id in enumerate(self.ids[:stop]) if id == MISSING]
        return [*found, *range(len(self.ids), stop)]
