"""What two runs have in common, layer by layer, and what is known to make them differ.

The runs are gone through together, document by document. Of what differs a few rows are
remembered, by their numbers, and `explaining` looks at these once all is read.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_store.comparing.explaining import Evidence
from tenterhook_store.comparing.measuring import LayerComparison, LayerMeter
from tenterhook_store.comparing.pairing import DocumentRows, Pair, pairs
from tenterhook_store.comparing.recognising import DOCUMENTS, RunDifference, Sampled, stored_dtype
from tenterhook_store.progress import Work, showing
from tenterhook_store.readable import Readable
from tenterhook_store.rows import Rows

BLOCK_BYTES = 4 * 2**20
"""About as much of a layer is read at a time, of each run."""

REMEMBERED = 100_000
"""Documents whose lengths, or whose other tokens, are remembered."""


@attrs.frozen(kw_only=True)
class RunComparison:
    """Two runs, A and B, compared."""

    run_a: str
    run_b: str
    rows: int
    """Rows with a partner: of the same token of the same document."""
    rows_only_a: int
    """Rows of A without a partner, in documents that both runs have whole, or in complete runs."""
    rows_only_b: int
    rows_missing_a: int
    """Rows of B whose partner is, or may be, of a unit that A lacks."""
    rows_missing_b: int
    documents: int
    """Documents that both have rows of."""
    documents_only_a: int
    documents_only_b: int
    layers: tuple[LayerComparison, ...]
    layers_only_a: tuple[str, ...]
    """Layers that B has not, or has with another number of features."""
    layers_only_b: tuple[str, ...]
    made_differently: tuple[str, ...]
    """Where what the runs were made by differs; "there" is B, and "here" A."""
    recognised: tuple[RunDifference, ...]
    """What was recognised."""

    @property
    def is_alike(self) -> bool:
        """Whether both have the same rows, but for rounding and for units that are missing."""
        return not (
            self.rows_only_a
            or self.rows_only_b
            or self.layers_only_a
            or self.layers_only_b
            or any(each.verdict == "different" for each in self.layers)
        )

    def __str__(self) -> str:
        """Return a line for each layer and each finding, and one that sums up."""
        lines = [
            f"A {self.run_a}, B {self.run_b}: {self.rows:,} rows of {self.documents:,} documents "
            "are in both",
            *self._only("A", self.rows_only_a, self.documents_only_a, self.layers_only_a),
            *self._only("B", self.rows_only_b, self.documents_only_b, self.layers_only_b),
        ]
        lines += [
            f"{count:,} rows are not compared: {run} lacks units"
            for run, count in (("A", self.rows_missing_a), ("B", self.rows_missing_b))
            if count
        ]
        lines += [str(each) for each in self.layers]
        lines += [f"found: {each}" for each in self.recognised]
        if not self.is_alike and not self.recognised:
            lines.append("found: nothing that is known to make runs differ")
        if self.made_differently:
            lines.append(f"made differently (B there, A here): {'; '.join(self.made_differently)}")
        return "\n".join([*lines, "alike" if self.is_alike else "different"])

    def _only(self, run: str, rows: int, documents: int, layers: tuple[str, ...]) -> Iterator[str]:
        if rows:
            of = f", {documents:,} documents among them" if documents else ""
            yield f"only in {run}: {rows:,} rows{of}"
        if layers:
            yield f"only in {run}: {', '.join(layers)}"


def compare(
    run_a: Readable, run_b: Readable, *, progress: Callable[[int, int], None] | None = None
) -> RunComparison:
    """Compare two runs, of one store or two: rows of the same token of the same document.

    Both are read once, a few MiB at a time. Documents are those of the same number, and layers
    those of the same name. Where a run lacks units, the rows of the other that have no partner
    on that account are counted and are no difference. Rows that are closer than rounding
    explains, in the narrower dtype of the two, are alike. `progress` is called with the rows done
    and how many there are, of the run that has more.
    """
    total = max(run_a.ranges.rows, run_b.ranges.rows)
    with showing(f"Comparing {run_a.id} and {run_b.id}", total, progress=progress) as work:
        return _Comparing(run_a, run_b, work).found()


class _Comparing:
    """Goes through two runs, and remembers what to look at again."""

    def __init__(self, a: Readable, b: Readable, work: Work) -> None:
        self._a, self._b, self._work = a, b, work
        self._common = [
            name for name in a.layers if name in b.layers and a[name].shape[1:] == b[name].shape[1:]
        ]
        self._meters = {
            name: LayerMeter(name, stored_dtype(a, name), stored_dtype(b, name))
            for name in self._common
        }
        self._counts: Counter[str] = Counter()
        self._evidence = Evidence(a, b, self._common, differ={name: [] for name in self._common})
        widest = max((rows for name in self._common for rows in self._row_bytes(name)), default=1)
        self._block = max(1, BLOCK_BYTES // widest)

    def _row_bytes(self, name: str) -> Iterator[int]:
        for run in (self._a, self._b):
            rows = run[name]
            yield rows.shape[1] * rows.dtype.itemsize

    def found(self) -> RunComparison:
        """Read all, and return what there is to say."""
        waiting: list[Pair] = []
        count = done = 0
        total = max(self._a.ranges.rows, self._b.ranges.rows)
        for pair in pairs(self._a, self._b):
            self._note(pair)
            if not len(pair.places_a):
                continue
            waiting.append(pair)
            count += len(pair.places_a)
            if count >= self._block:
                self._measure(waiting)
                done, waiting, count = done + count, [], 0
                self._work.reach(min(done, total))
        self._measure(waiting)
        self._work.reach(total)
        layers = tuple(meter.found() for meter in self._meters.values())
        return RunComparison(
            run_a=self._a.id,
            run_b=self._b.id,
            rows=self._counts["rows"],
            rows_only_a=self._counts["only a"],
            rows_only_b=self._counts["only b"],
            rows_missing_a=self._counts["missing a"],
            rows_missing_b=self._counts["missing b"],
            documents=self._counts["documents"],
            documents_only_a=self._counts["documents a"],
            documents_only_b=self._counts["documents b"],
            layers=layers,
            layers_only_a=tuple(name for name in self._a.layers if name not in self._common),
            layers_only_b=tuple(name for name in self._b.layers if name not in self._common),
            made_differently=tuple(self._a.plan.differences(self._b.plan)),
            recognised=tuple(self._evidence.recognised(layers)),
        )

    def _note(self, pair: Pair) -> None:
        """Count a document, and remember how its tokens agree."""
        self._counts["rows"] += len(pair.places_a)
        self._count_alone("a", pair.only_a, pair, missing_in=self._b)
        self._count_alone("b", pair.only_b, pair, missing_in=self._a)
        if pair.a is None or pair.b is None:
            return
        self._counts["documents"] += 1
        self._evidence.ways[pair.way] += 1
        if pair.way in ("dropped", "undoubled"):
            self._evidence.first_tokens[int(pair.a.tokens[0])] += 1
        elif pair.way in ("doubled", "lacks"):
            self._evidence.first_tokens[int(pair.b.tokens[0])] += 1
        elif pair.way == "other" and len(self._evidence.other_tokens) < REMEMBERED:
            self._evidence.other_tokens.append((pair.number, _digest(pair.a), _digest(pair.b)))
        if len(self._evidence.first) < DOCUMENTS and len(pair.places_a):
            self._evidence.first.append(Sampled.of(pair))

    def _count_alone(self, run: str, rows: int, pair: Pair, *, missing_in: Readable) -> None:
        """Count rows without a partner: in one run alone, or of a unit that the other lacks."""
        if not rows:
            return
        is_there = pair.a is not None and pair.b is not None
        if bool(missing_in.missing) and not (is_there and pair.is_whole):
            self._counts[f"missing {'b' if run == 'a' else 'a'}"] += rows
            return
        self._counts[f"only {run}"] += rows
        self._counts[f"documents {run}"] += not is_there

    def _measure(self, waiting: Sequence[Pair]) -> None:
        """Compare the rows of some documents, a block at a time."""
        if not waiting:
            return
        rows_a = torch.cat([pair.rows_a for pair in waiting])
        rows_b = torch.cat([pair.rows_b for pair in waiting])
        lengths = torch.tensor([len(pair.places_a) for pair in waiting])
        document = torch.repeat_interleave(torch.arange(len(waiting)), lengths)
        differs = torch.zeros(len(waiting), dtype=torch.bool)
        for name, meter in self._meters.items():
            in_layer = torch.zeros(len(waiting), dtype=torch.bool)
            for start in range(0, len(rows_a), self._block):
                some = slice(start, start + self._block)
                one = _read(self._a[name], rows_a[some])
                other = _read(self._b[name], rows_b[some])
                in_layer[document[some][meter.add(one, other)]] = True
            # Of other texts, what a row is of is another matter.
            found = [
                at for at in in_layer.nonzero().flatten().tolist() if waiting[at].way != "other"
            ]
            room = DOCUMENTS - len(self._evidence.differ[name])
            self._evidence.differ[name] += [Sampled.of(waiting[at]) for at in found[:room]]
            differs |= in_layer
        if len(self._evidence.lengths) < REMEMBERED:
            alike = zip(waiting, (~differs).tolist(), strict=True)
            self._evidence.lengths += [
                (len(pair.places_a), is_alike) for pair, is_alike in alike if pair.way == "same"
            ]


def _read(rows: Rows, numbers: Tensor) -> Tensor:
    """Read rows by their numbers, in one piece where they follow each other."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and bool((numbers.diff() == 1).all()):
        return rows[first : last + 1]
    return rows.take(numbers)


def _digest(document: DocumentRows) -> bytes:
    return hashlib.blake2b(document.tokens.numpy().tobytes(), digest_size=16).digest()
