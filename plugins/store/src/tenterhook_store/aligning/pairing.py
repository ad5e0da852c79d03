"""Which rows of two runs are of the same characters of the same document.

Both runs are gone through together, some documents at a time, and each time the spans of both are
sorted: what is in memory is a block of rows of each run, or its longest document.

Rows are paired where document, first and last character are equal. Several rows have one span
where a character is cut in bytes. They are paired from the last, which has read all of the
character: the last with the last, the one before with the one before, as far as both have some.
The special tokens that tokenizers add are of no characters (`NOWHERE`), and have no partner.
"""

from collections.abc import Callable, Iterator

import attrs
import torch
from torch import Tensor

from tenterhook_store.readable import Readable

BLOCK = 32_768
"""Rows of each run that are read at once."""

_AFTER_ALL = 2**62


@attrs.frozen(eq=False)
class _Spans:
    """Some rows of a run."""

    rows: Tensor
    """int64 `[n]`, rising."""
    documents: Tensor
    """int64 `[n]`, not falling."""
    spans: Tensor
    """int32 `[n, 2]`."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice | Tensor) -> "_Spans":
        return _Spans(self.rows[some], self.documents[some], self.spans[some])


def paired_rows(
    a: Readable, b: Readable, is_same: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, int, int]]:
    """Yield pairs of rows, int64 `[n, 2]`, in the order of A's rows; of how many documents they
    are; and how many rows of A are done by then.

    `is_same` says of documents, int64 `[n]`, which are the same text in both.
    """
    left, right = _Waiting(a), _Waiting(b)
    done = 0
    while not (left.is_empty or right.is_empty):
        # The one that is behind: so neither waits with more than a block and a document.
        behind = min((each for each in (left, right) if not each.is_read), key=_last, default=None)
        if behind is not None:
            behind.read()
        limit = min(_AFTER_ALL if each.is_read else each.last for each in (left, right))
        ours, theirs = left.before(limit), right.before(limit)
        done += len(ours)
        yield *_paired(ours, theirs, is_same), done


class _Waiting:
    """Rows of a run that were read, whose documents may not be whole yet."""

    def __init__(self, run: Readable) -> None:
        self._blocks = _blocks(run)
        self._waiting: list[_Spans] = []
        self.is_read = False
        """Whether all of the run is."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of the run."""
        return self.is_read and not self._waiting

    @property
    def last(self) -> int:
        """The document of the last row that was read; -1 where none was."""
        return int(self._waiting[-1].documents[-1]) if self._waiting else -1

    def read(self) -> None:
        """Read one more block, if there is one."""
        block = next(self._blocks, None)
        self.is_read = block is None
        self._waiting += [] if block is None else [block]

    def before(self, document: int) -> _Spans:
        """Take out the rows of the documents before this one."""
        if not self._waiting:
            return _Spans(*(torch.empty(shape, dtype=torch.int64) for shape in (0, 0, (0, 2))))
        if len(self._waiting) > 1:
            parts = zip(*((x.rows, x.documents, x.spans) for x in self._waiting), strict=True)
            self._waiting = [_Spans(*map(torch.cat, parts))]
        there = self._waiting[0]
        count = int(torch.searchsorted(there.documents, document))
        self._waiting = [there[count:]] if count < len(there) else []
        return there[:count]


def _last(waiting: _Waiting) -> int:
    return waiting.last


def _blocks(run: Readable) -> Iterator[_Spans]:
    documents, spans = run.documents.index, run.spans
    for part in run.ranges:
        for start in range(part.start, part.stop, BLOCK):
            stop = min(start + BLOCK, part.stop)
            numbers = documents[start:stop].to(torch.int64)
            yield _Spans(torch.arange(start, stop), numbers, spans[start:stop])


def _paired(a: _Spans, b: _Spans, is_same: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    a, b = (each[(each.spans[:, 0] >= 0) & _same(each, is_same)] for each in (a, b))
    if not len(a) or not len(b):
        return torch.empty((0, 2), dtype=torch.int64), 0
    # One number for each span of each document, the same in both runs.
    both = [torch.cat(two).long() for two in ((a.documents, b.documents), (a.spans, b.spans))]
    documents = _numbered(both[0])
    begins = _numbered(documents << 32 | both[1][:, 0])
    found = _numbered(begins << 32 | both[1][:, 1])
    keys_a, keys_b = found[: len(a)], found[len(a) :]
    from_last = _from_last(keys_a), _from_last(keys_b)
    most = int(max(each.max() for each in from_last)) + 1
    keys_a, keys_b = keys_a * most + from_last[0], keys_b * most + from_last[1]
    keys_b, order = keys_b.sort()
    places = torch.searchsorted(keys_b, keys_a).clamp(max=len(keys_b) - 1)
    have = keys_b[places] == keys_a
    pairs = torch.stack([a.rows[have], b.rows[order[places[have]]]], 1)
    return pairs, len(torch.unique_consecutive(a.documents[have]))


def _numbered(values: Tensor) -> Tensor:
    """Return values as numbers from 0, equal ones the same; int64 `[n]`."""
    found: Tensor = torch.unique(values, return_inverse=True)[1]
    return found


def _same(rows: _Spans, is_same: Callable[[Tensor], Tensor]) -> Tensor:
    numbers, where = torch.unique_consecutive(rows.documents, return_inverse=True)
    return is_same(numbers)[where]


def _from_last(keys: Tensor) -> Tensor:
    """Return which of the equal ones each is, counted from the last, 0; int64 `[n]`."""
    ordered, order = keys.sort(stable=True)
    _, group, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    found = torch.empty_like(keys)
    found[order] = counts.cumsum(0)[group] - 1 - torch.arange(len(keys))
    return found
