"""Which row of one run is of the same token as which row of another.

Documents are paired by their number. Inside a document rows are paired in order where both have
the same tokens, whatever their positions; else one token apart where the first token was dropped
or doubled; else by position, where the tokens agree. Rows of layers are not looked at here, and
in memory are the numbers of a few documents.
"""

from collections.abc import Iterator
from typing import Literal

import attrs
import torch
from torch import Tensor

from tenterhook_store.readable import Readable
from tenterhook_store.rows import BLOCK

Way = Literal[
    "same", "moved", "dropped", "doubled", "undoubled", "lacks", "padded", "part", "other"
]
"""How the tokens of a document agree: the `same`; the same at other positions (`moved`); the second
run drops the first token, has it twice, or has it once where the first has it twice; the first run
drops it (`lacks`); one has one token more often, at an end (`padded`); rows of some of the tokens
(`part`); `other` tokens."""


@attrs.frozen(eq=False)
class DocumentRows:
    """The rows that a run has of one document."""

    number: int
    rows: Tensor
    """Their numbers, int64 `[rows]`, rising."""
    tokens: Tensor
    positions: Tensor
    is_whole: bool
    """Whether none of its rows can be of a unit that is missing."""

    def __len__(self) -> int:
        return len(self.rows)


@attrs.frozen(eq=False)
class Pair:
    """One document in two runs; `None` where a run has no rows of it."""

    number: int
    a: DocumentRows | None
    b: DocumentRows | None
    way: Way
    places_a: Tensor
    """Which rows of the document in the first run have a partner, int64 `[pairs]`."""
    places_b: Tensor
    """Their partners in the second."""

    @property
    def is_whole(self) -> bool:
        """Whether both runs have all the rows that they ever will."""
        return all(each is None or each.is_whole for each in (self.a, self.b))

    @property
    def only_a(self) -> int:
        """Rows of the first run without a partner."""
        return (0 if self.a is None else len(self.a)) - len(self.places_a)

    @property
    def only_b(self) -> int:
        """Rows of the second run without a partner."""
        return (0 if self.b is None else len(self.b)) - len(self.places_b)

    @property
    def rows_a(self) -> Tensor:
        """Numbers of the rows of the first run that have a partner, int64 `[pairs]`."""
        return self.places_a if self.a is None else self.a.rows[self.places_a]

    @property
    def rows_b(self) -> Tensor:
        """Numbers of their partners."""
        return self.places_b if self.b is None else self.b.rows[self.places_b]


def documents(run: Readable) -> Iterator[DocumentRows]:
    """Read the documents of which a run has rows, in their order, a block of rows at a time."""
    waiting: list[DocumentRows] = []
    for piece in _pieces(run):
        if waiting and waiting[0].number != piece.number:
            yield _joined(waiting)
            waiting = []
        waiting.append(piece)
    if waiting:
        yield _joined(waiting)


def pairs(a: Readable, b: Readable) -> Iterator[Pair]:
    """Go through two runs together, in the order of their documents."""
    nothing = torch.empty(0, dtype=torch.int64)
    left, right = documents(a), documents(b)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.number < other.number):
            assert one is not None
            yield Pair(one.number, one, None, "part", nothing, nothing)
            one = next(left, None)
        elif one is None or other.number < one.number:
            yield Pair(other.number, None, other, "part", nothing, nothing)
            other = next(right, None)
        else:
            yield _paired(one, other)
            one, other = next(left, None), next(right, None)


def _pieces(run: Readable) -> Iterator[DocumentRows]:
    for part in run.ranges:
        for start in range(part.start, part.stop, BLOCK):
            stop = min(start + BLOCK, part.stop)
            tokens = run.tokens[start:stop].to(torch.int64)
            positions = run.documents.position[start:stop].to(torch.int64)
            numbers, counts = torch.unique_consecutive(
                run.documents.index[start:stop], return_counts=True
            )
            at = 0
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                first, last = start + at, start + at + count
                # Beside a row that is missing, more of the document may be.
                cut = (first == part.start and first > 0) or (
                    last == part.stop and last < run.plan.rows
                )
                yield DocumentRows(
                    number,
                    torch.arange(first, last),
                    tokens[at : at + count],
                    positions[at : at + count],
                    not cut,
                )
                at += count


def _joined(pieces: list[DocumentRows]) -> DocumentRows:
    if len(pieces) == 1:
        return pieces[0]
    return DocumentRows(
        pieces[0].number,
        torch.cat([each.rows for each in pieces]),
        torch.cat([each.tokens for each in pieces]),
        torch.cat([each.positions for each in pieces]),
        all(each.is_whole for each in pieces),
    )


def _paired(a: DocumentRows, b: DocumentRows) -> Pair:
    if torch.equal(a.tokens, b.tokens):
        every = torch.arange(len(a))
        way: Way = "same" if torch.equal(a.positions, b.positions) else "moved"
        return Pair(a.number, a, b, way, every, every)
    found = _by_position(a, b)
    if found[0].numel() == min(len(a), len(b)):
        return Pair(a.number, a, b, _missing_first(a, b, *found), *found)
    if a.is_whole and b.is_whole:
        return _one_apart(a, b) or Pair(a.number, a, b, "other", *found)
    # Of a document in two parts, positions alone tell that its first token was dropped or doubled.
    found = max((_by_position(a, b, apart) for apart in (0, 1, -1)), key=lambda each: len(each[0]))
    return Pair(a.number, a, b, "other", *found)


def _by_position(a: DocumentRows, b: DocumentRows, apart: int = 0) -> tuple[Tensor, Tensor]:
    """Return the places of equal tokens at positions that are so far apart."""
    positions, order = (b.positions - apart).sort(stable=True)
    at = torch.searchsorted(positions, a.positions).clamp(max=len(b) - 1)
    partners = order[at]
    agree = (b.positions[partners] - apart == a.positions) & (b.tokens[partners] == a.tokens)
    return agree.nonzero().flatten(), partners[agree]


def _missing_first(a: DocumentRows, b: DocumentRows, in_a: Tensor, in_b: Tensor) -> Way:
    """Say whether all that one lacks of the other's rows is the first."""
    if len(a) == len(b) + 1 and len(in_b) == len(b) and int(in_a[0]) == 1:
        return "dropped"
    if len(b) == len(a) + 1 and len(in_a) == len(a) and int(in_b[0]) == 1:
        return "lacks"
    return "part"


def _one_apart(a: DocumentRows, b: DocumentRows) -> Pair | None:
    """Pair the tokens in order, those at the start or end that one has more left out."""
    extra = len(b) - len(a)
    least = max(min(len(a), len(b)) - 1, 1)
    # A text that was cut to a length has one token fewer at its end for one more at its start.
    for start_a, start_b in ((0, max(extra, 1)), (max(-extra, 1), 0), (0, 0)):
        count = min(len(a) - start_a, len(b) - start_b)
        in_a, in_b = torch.arange(max(count, 0)) + start_a, torch.arange(max(count, 0)) + start_b
        if count >= least and torch.equal(a.tokens[in_a], b.tokens[in_b]):
            way = _way(a.tokens, b.tokens, start_a, start_b)
            return Pair(a.number, a, b, way, in_a, in_b)
    return None


def _way(a: Tensor, b: Tensor, start_a: int, start_b: int) -> Way:
    if start_b == 1:
        return "doubled" if len(b) > 1 and b[0] == b[1] else "lacks"
    if start_a == 1:
        return "undoubled" if len(a) > 1 and a[0] == a[1] else "dropped"
    longer = a if len(a) > len(b) else b
    extra = abs(len(a) - len(b))
    more = longer[: start_a + start_b] if start_a + start_b else longer[len(longer) - extra :]
    return "padded" if bool((more == more[0]).all()) else "part"
