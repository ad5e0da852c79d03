"""The rows of a layer that lie highest along a direction: exact, and most of a run unread.

What happens in a search by dot product:

1. The bounds of norms say how long the longest row of each chunk is, so how high a row there can
   be. The few chunks that can have the highest rows are read first.
2. The others are read in the order of the rows, in large pieces, by a few threads. A chunk none of
   whose rows can be as high as the lowest of the `k` that were found so far is passed over.
3. Of each piece the products are taken in float32, which is fast. A row whose product comes within
   the error of that of the lowest found (Higham 2002, equation 3.5) is multiplied again, in
   float64, and that number counts.

So the result is that of multiplying every row in float64, whichever chunk is passed over and
whichever thread comes first: of equal rows the first ones are taken. test_store_search proves both.
Cosines are bounded by nothing but 1, so every row is read for them, as of runs without bounds.
Memory is a few pieces of `PIECE` bytes for each thread.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, final, overload

import attrs
import torch
from torch import Tensor

from tenterhook_store.errors import BadSetting
from tenterhook_store.norm_bounds import norm_bounds
from tenterhook_store.progress import Work, showing
from tenterhook_store.readable import Readable
from tenterhook_store.rows import Rows

By = Literal["dot", "cosine"]

PIECE = 2**22
"""Bytes of rows, as float32, that a thread reads at once."""

FIRST = 8
"""So many of the chunks with the longest rows are read first."""

_PLAIN = 1e-15, 1e18
"""Of a row and a direction of lengths between these, float32 loses nothing that counts."""


@attrs.frozen(eq=False)
class Hit:
    """A row that a search found."""

    row: int
    score: float
    """Its dot product or cosine, in float64."""
    document: int
    position: int
    """Which token of its document it is."""
    token: int
    """The token's id."""
    _run: Any = attrs.field(repr=False)

    @property
    def text(self) -> str:
        """What its token stands for; see `around`."""
        return self.around(0)

    def around(self, tokens: int = 10, tokenizer: Any = None) -> str:
        """Return the text of its token and of so many before and after it in its document.

        As far as these rows are there, one after the other. Without a tokenizer the model that made
        the run is loaded for its own, once; raises `NoTokenizer`.
        """
        rows = self._run.documents.rows(self.document)
        first, stop = max(rows.start, self.row - tokens), min(rows.stop, self.row + tokens + 1)
        for part in self._run.ranges:
            if part.start <= self.row < part.stop:
                first, stop = max(first, part.start), min(stop, part.stop)
        return str(self._run.decode(slice(first, stop), tokenizer))


@final
@attrs.frozen(eq=False)
class Hits(Sequence[Hit]):
    """The rows that a search found, the highest first."""

    layer: str
    by: By
    rows: Tensor
    """int64 `[found]`."""
    scores: Tensor
    """float64 `[found]`."""
    documents: Tensor
    """int64 `[found]`."""
    positions: Tensor
    """int64 `[found]`."""
    tokens: Tensor
    """int64 `[found]`: ids."""
    rows_read: int
    """How many rows of the layer were read to find these."""
    _run: Any = attrs.field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Hit: ...

    @overload
    def __getitem__(self, at: slice) -> list[Hit]: ...

    def __getitem__(self, at: int | slice) -> Hit | list[Hit]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        row, score, *others = (
            each[at].item()
            for each in (self.rows, self.scores, self.documents, self.positions, self.tokens)
        )
        document, position, token = map(int, others)
        return Hit(int(row), float(score), document, position, token, self._run)

    def texts(self, tokens: int = 10, tokenizer: Any = None) -> list[str]:
        """Return the text around each; see `Hit.around`."""
        return [each.around(tokens, tokenizer) for each in self]

    def __repr__(self) -> str:
        best = f", best {float(self.scores[0]):.4g}" if len(self) else ""
        return f"Hits({self.layer!r}, by={self.by!r}, {len(self)} rows{best})"


def search(
    run: Readable,
    direction: Any,
    k: int = 100,
    *,
    layer: str | int | None = None,
    by: By = "dot",
    threads: int = 2,
) -> Hits:
    """Find the `k` rows with the largest dot product or cosine; see `Run.search`."""
    for name, number in (("k", k), ("threads", threads)):
        if type(number) is not int or number < 1:
            raise BadSetting(name, number, "a whole number, 1 or more")
    if by not in ("dot", "cosine"):
        raise BadSetting("by", by, "'dot' or 'cosine'")
    if layer is None:
        if len(run.layers) != 1:
            raise BadSetting("layer", layer, f"one of the run's: {', '.join(run.layers)}")
        layer = run.layers[0]
    rows = run[layer]
    asked = _direction(direction, rows)
    with showing(f"Searching {rows.name}", run.ranges.rows) as work:
        finder = _Finder(rows, asked, k, by, work)
        pieces = _pieces(run, rows, finder)
        _each(finder.look, pieces, threads)
    found, scores = finder.best()
    numbers = [run.documents.index, run.documents.position, run.tokens]
    documents, positions, tokens = (each.take(found).long() for each in numbers)
    return Hits(rows.name, by, found, scores, documents, positions, tokens, finder.rows_read, run)


def _direction(direction: Any, rows: Rows) -> Tensor:
    """Return the direction, float64 `[features]`, on the CPU."""
    found = torch.as_tensor(direction).detach().to("cpu")
    if found.is_complex() or rows.dtype.is_complex:
        raise BadSetting("direction", found.dtype, "real, and of a layer of real numbers")
    width = rows.shape[1]
    if found.shape != (width,):
        expected = f"of shape [{width}], as wide as {rows.name!r}"
        raise BadSetting("direction", list(found.shape), expected)
    found = found.double()
    if not bool(found.isfinite().all()) or not bool(found.any()):
        raise BadSetting("direction", found.tolist()[:4], "finite, and not all zeros")
    return found


class _Finder:
    """The highest rows so far, and what a row must have to be one of them."""

    def __init__(self, rows: Rows, direction: Tensor, k: int, by: By, work: Work) -> None:
        self._rows, self._k, self._by = rows, k, by
        self._direction = direction
        self.work = work
        unit = direction.abs().max()  # its square may be 0 or infinite in float64
        self.length = float((direction / unit).norm() * unit)
        self._unit = (direction / unit / (direction / unit).norm()).float()
        self._share = (len(direction) + 8) * 2.0**-22
        self._lock = threading.Lock()
        self._found = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64)
        self.rows_read = 0

    @property
    def lowest(self) -> float:
        """What a row must reach: the lowest of the `k` found so far."""
        scores = self._found[1]
        return float(scores[-1]) if len(scores) == self._k else -torch.inf

    def reach(self, largest: Tensor) -> Tensor:
        """Return how high rows of at most these lengths can be, float64, rounded outwards."""
        if self._by == "cosine":
            return torch.full(largest.shape, torch.inf, dtype=torch.float64)
        return torch.nan_to_num(largest.double() * self.length * (1 + 1e-6), nan=torch.inf)

    def look(self, span: tuple[int, int]) -> None:
        """Read rows `start` to `stop`, and take what is high among them."""
        values = self._rows.block(*span)
        near = self._near(values)
        if len(near):
            exact = self._exact(values[near])
            is_number = ~exact.isnan()
            numbers = near[is_number] + span[0]
            self._take(numbers, exact[is_number], span[1] - span[0])
        else:
            self._take(near, torch.empty(0, dtype=torch.float64), span[1] - span[0])
        self.work(span[1] - span[0])

    def _near(self, values: Tensor) -> Tensor:
        """Return which rows may be high enough, by float32 and its error, int64 `[n]`."""
        lowest = self.lowest
        narrow = values.float()
        products = narrow @ self._unit
        lengths = torch.linalg.vector_norm(narrow, dim=1)
        is_plain = (lengths > _PLAIN[0]) & (lengths < _PLAIN[1])
        if self._by == "cosine":
            above = products / lengths + self._share
        else:
            above = (products + lengths * self._share) * self.length
        # Written so that NaN counts as high enough.
        may: Tensor = (~is_plain) | ~(above < lowest)
        return may.nonzero().reshape(-1)

    def _exact(self, values: Tensor) -> Tensor:
        """Return the score of each row in float64; NaN where it has none.

        Summed a row at a time, in an order that does not follow from which other rows there are.
        """
        wide = values.double()
        products: Tensor = (wide * self._direction).sum(1)
        if self._by == "dot":
            return products
        unit = wide.abs().amax(1, keepdim=True)
        lengths = (wide / unit).square().sum(1).sqrt() * unit[:, 0]
        turned = (wide / unit * (self._direction / self.length)).sum(1)
        cosines: Tensor = turned * unit[:, 0] / lengths
        return cosines

    def _take(self, numbers: Tensor, scores: Tensor, read: int) -> None:
        with self._lock:
            self.rows_read += read
            numbers = torch.cat([self._found[0], numbers])
            scores = torch.cat([self._found[1], scores])
            by_row = numbers.argsort()
            order = by_row[scores[by_row].argsort(descending=True, stable=True)][: self._k]
            self._found = numbers[order], scores[order]

    def best(self) -> tuple[Tensor, Tensor]:
        """Return the rows found and their scores, the highest first."""
        return self._found


def _pieces(run: Readable, rows: Rows, finder: _Finder) -> Iterator[tuple[int, int]]:
    """Give the pieces that are to be read, each when the ones before were begun."""
    at_once = max(1, PIECE // (4 * rows.shape[1]))
    bounds = None if finder.reach(torch.ones(1)).isinf().all() else norm_bounds(run, rows.name)
    if bounds is None:
        for part in run.ranges:
            for start in range(part.start, part.stop, at_once):
                yield start, min(start + at_once, part.stop)
        return
    reach = finder.reach(bounds.largest)
    first = reach.argsort(descending=True, stable=True)[:FIRST]
    is_left = torch.ones(len(reach), dtype=torch.bool)
    starts, stops = bounds.start.tolist(), bounds.stop.tolist()
    for at in first.tolist():
        if float(reach[at]) >= finder.lowest:
            is_left[at] = False
            yield starts[at], stops[at]
    # Chunks one after the other that are to be read are one piece, up to its size.
    begin = end = -1
    for at in is_left.nonzero().reshape(-1).tolist():
        if float(reach[at]) < finder.lowest:
            finder.work(stops[at] - starts[at])
            continue
        if begin >= 0 and (starts[at] != end or stops[at] - begin > at_once):
            yield begin, end
            begin = -1
        begin, end = (starts[at] if begin < 0 else begin), stops[at]
    if begin >= 0:
        yield begin, end


def _each(look: Any, pieces: Iterable[tuple[int, int]], threads: int) -> None:
    """Have threads look at pieces, each taking the next one when it is done with its last."""
    lock = threading.Lock()
    given = iter(pieces)

    def work() -> None:
        while True:
            with lock:
                piece = next(given, None)
            if piece is None:
                return
            look(piece)

    with ThreadPoolExecutor(threads, thread_name_prefix="search") as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
