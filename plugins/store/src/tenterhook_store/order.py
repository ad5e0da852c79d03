"""Which rows a loader gives, and in which batches: numbers alone, nothing is read.

The rows of a run stand in one order for an epoch, and that order is cut into batches. Each batch
belongs to one rank, and there to one worker, so that together they give every row once.

What a loader asks, for each worker and epoch:

1. `Cut.of_worker`: how many batches are mine? They differ by one at most.
2. Which places of the order are they? Where there is no buffer, ranks and workers take batches in
   turn (`Cut.in_turn`). With a buffer each has one stretch (`Cut.in_one_piece`), so that no two
   read the same block of rows.
3. Which rows stand there? `ShuffledBlocks` gives ranges of rows that follow each other, for
   `mixing="blocks"`; `Permutation` gives single rows, for `mixing="exact"`.

All of it follows from the seed and the epoch, and can be asked from the middle: no answer needs
those before it. A stopped loader goes on so, without reading what was given.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

TABLE_ROWS = 2**22
"""The largest permutation that is drawn as a table, 8 bytes a row; larger ones are computed."""

_ROUNDS = 8


@attrs.frozen(kw_only=True)
class Cut:
    """Rows cut into batches, for so many ranks."""

    rows: int
    batch_size: int
    drop_last: bool
    """Leave out the batch that is not full, and those that some ranks would have more than
    others."""
    world_size: int

    @property
    def batches(self) -> int:
        """How many batches an epoch has, on all ranks."""
        if self.drop_last:
            return self.rows // self.batch_size // self.world_size * self.world_size
        return -(-self.rows // self.batch_size)

    def of_rank(self, rank: int) -> int:
        """Return how many of them a rank gives."""
        return _part(self.batches, self.world_size, rank)

    def of_worker(self, rank: int, worker: int, workers: int) -> int:
        """Return how many of a rank's batches one of its workers gives."""
        return _part(self.of_rank(rank), workers, worker)

    def in_turn(self, number: int, rank: int, worker: int, workers: int) -> tuple[int, int]:
        """Return from where to where a worker's batch is, where ranks and workers take turns.

        `DataLoader` takes from its workers in turn too, so that what a rank gets does not depend
        on how many there are.
        """
        batch = (number * workers + worker) * self.world_size + rank
        return self._place(batch), self._place(batch + 1)

    def in_one_piece(self, rank: int, worker: int, workers: int) -> tuple[int, int]:
        """Return from where to where a worker's batches are, where each has its own stretch."""
        first = sum(self.of_rank(each) for each in range(rank))
        first += sum(self.of_worker(rank, each, workers) for each in range(worker))
        return self._place(first), self._place(first + self.of_worker(rank, worker, workers))

    def _place(self, batch: int) -> int:
        return min(batch * self.batch_size, self.rows)


def _part(count: int, parts: int, part: int) -> int:
    """Return how many of `count` things the part gets when they are dealt out in turn."""
    return count // parts + (part < count % parts)


@attrs.frozen
class Bufferfuls:
    """A stretch of rows in bufferfuls, of whole batches each and as equal as these allow.

    A last one that is small would be badly mixed: its batches would have whole blocks. The larger
    ones come first, by a batch.
    """

    rows: int
    batch_size: int
    buffer_rows: int

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self._batches // max(1, self.buffer_rows // self.batch_size))

    def begin(self, number: int) -> int:
        """Return after how many rows one begins; of the number after the last, all of them."""
        size, larger = divmod(self._batches, max(self.count, 1))
        return min((number * size + min(number, larger)) * self.batch_size, self.rows)

    def of(self, given: int) -> int:
        """Return which one has the batch that comes after so many rows."""
        size, larger = divmod(self._batches, max(self.count, 1))
        batch, of_larger = given // self.batch_size, larger * (size + 1)
        return batch // (size + 1) if batch < of_larger else larger + (batch - of_larger) // size

    @property
    def _batches(self) -> int:
        return -(-self.rows // self.batch_size)


class ShuffledBlocks:
    """All rows, in blocks of rows that follow each other; the blocks in random order."""

    def __init__(self, rows: int, block_rows: int, *key: Any) -> None:
        self._rows = rows
        self._size = block_rows
        count = -(-rows // block_rows)
        self._order = torch.randperm(count, generator=generator(*key))
        self._missing = count * block_rows - rows
        """Rows that the run's last block, wherever it is now, has fewer than the others."""
        self._last_at = int((self._order == count - 1).nonzero()) if count else 0

    def stretch(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Return the rows from one place of this order to another, as ranges `start, stop`."""
        at = start // self._size
        if at > self._last_at or start >= self._begin(at) + self._length(at):
            at = (start + self._missing) // self._size
        while start < stop:
            offset = start - self._begin(at)
            length = min(self._length(at) - offset, stop - start)
            first = int(self._order[at]) * self._size + offset
            yield first, first + length
            start += length
            at += 1

    def _begin(self, at: int) -> int:
        return at * self._size - (self._missing if at > self._last_at else 0)

    def _length(self, at: int) -> int:
        return self._size - (self._missing if at == self._last_at else 0)


class Permutation:
    """A random order of `rows` rows, of which any part can be asked for.

    Up to `TABLE_ROWS` rows, every order is equally likely. Larger ones take no memory: a Feistel
    network on a rectangle that is just as large as needed, repeated where it leads outside of the
    rows (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, sections 2 and 4).
    """

    def __init__(self, rows: int, *key: Any) -> None:
        self._rows = rows
        self._table: Tensor | None = None
        if rows <= TABLE_ROWS:
            self._table = torch.randperm(rows, generator=generator(*key))
        else:
            self._height = math.isqrt(rows - 1) + 1
            self._width = -(-rows // self._height)
            self._keys = [seed(*key, number) for number in range(_ROUNDS)]

    def stretch(self, start: int, stop: int) -> Tensor:
        """Return the rows from one place of this order to another, int64 `[stop - start]`."""
        if self._table is not None:
            return self._table[start:stop]
        found = self._mix(torch.arange(start, stop))
        while (outside := found >= self._rows).any():
            found[outside] = self._mix(found[outside])
        return found

    def _mix(self, numbers: Tensor) -> Tensor:
        left, right = numbers // self._width, numbers % self._width
        for number, key in enumerate(self._keys):
            if number % 2:
                right = (right + _hash(left, key) % self._width) % self._width
            else:
                left = (left + _hash(right, key) % self._height) % self._height
        return left * self._width + right


def generator(*key: Any) -> torch.Generator:
    """Return random numbers that follow from the key alone."""
    return torch.Generator().manual_seed(seed(*key))


def seed(*key: Any) -> int:
    """Return 63 bits that follow from the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _hash(numbers: Tensor, key: int) -> Tensor:
    """Mix the bits of int64 numbers (the finalizer of Stafford's variant 13 of MurmurHash3)."""
    mixed = numbers ^ key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shifted(mixed, shift)) * (factor - 2**64)
    return (mixed ^ _shifted(mixed, 31)) & (2**63 - 1)


def _shifted(numbers: Tensor, shift: int) -> Tensor:
    """Shift to the right and fill with zeros, which torch does not have for signed numbers."""
    return (numbers >> shift) & ((1 << (64 - shift)) - 1)
