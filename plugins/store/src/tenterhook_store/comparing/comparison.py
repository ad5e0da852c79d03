"""What two runs have in common, layer by layer, and what is known to make them differ.

The runs are gone through together, document by document. Of what differs a few rows are
remembered, by their numbers, and `recognising` looks at these once all is read.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from tenterhook_store.comparing.measuring import LayerComparison, LayerMeter
from tenterhook_store.comparing.pairing import DocumentRows, Pair, pairs
from tenterhook_store.comparing.recognising import (
    DOCUMENTS,
    FEW,
    RunDifference,
    Sample,
    Sampled,
    another_layer,
    exchanged_documents,
    layers_text,
    norm_of,
    rounded_dtype,
    shifts,
    stored_dtype,
)
from tenterhook_store.finding import natural_order
from tenterhook_store.readable import Readable
from tenterhook_store.rows import Rows

BLOCK_BYTES = 4 * 2**20
"""About as much of a layer is read at a time, of each run."""

REMEMBERED = 100_000
"""Documents whose lengths, or whose other tokens, are remembered."""

LOOKED_INTO = 4
"""Layers in which rows of other documents and tokens are looked for."""


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
    return _Comparing(run_a, run_b, progress).found()


class _Comparing:
    """Goes through two runs, and remembers what to look at again."""

    def __init__(
        self, a: Readable, b: Readable, progress: Callable[[int, int], None] | None
    ) -> None:
        self._a, self._b, self._progress = a, b, progress
        self._common = [
            name for name in a.layers if name in b.layers and a[name].shape[1:] == b[name].shape[1:]
        ]
        self._meters = {
            name: LayerMeter(name, stored_dtype(a, name), stored_dtype(b, name))
            for name in self._common
        }
        self._counts: Counter[str] = Counter()
        self._ways: Counter[str] = Counter()
        self._first_tokens: Counter[int] = Counter()
        self._differ: dict[str, list[Sampled]] = {name: [] for name in self._common}
        self._first: list[Sampled] = []
        self._other_tokens: list[tuple[int, bytes, bytes]] = []
        self._lengths: list[tuple[int, bool]] = []
        """How many rows a document has, and whether they are alike, in the documents' order."""
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
                if self._progress is not None:
                    self._progress(min(done, total), total)
        self._measure(waiting)
        if self._progress is not None:
            self._progress(total, total)
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
            recognised=tuple(self._recognised(layers)),
        )

    def _note(self, pair: Pair) -> None:
        """Count a document, and remember how its tokens agree."""
        self._counts["rows"] += len(pair.places_a)
        self._count_alone("a", pair.only_a, pair, missing_in=self._b)
        self._count_alone("b", pair.only_b, pair, missing_in=self._a)
        if pair.a is None or pair.b is None:
            return
        self._counts["documents"] += 1
        self._ways[pair.way] += 1
        if pair.way in ("dropped", "undoubled"):
            self._first_tokens[int(pair.a.tokens[0])] += 1
        elif pair.way in ("doubled", "lacks"):
            self._first_tokens[int(pair.b.tokens[0])] += 1
        elif pair.way == "other" and len(self._other_tokens) < REMEMBERED:
            self._other_tokens.append((pair.number, _digest(pair.a), _digest(pair.b)))
        if len(self._first) < DOCUMENTS and len(pair.places_a):
            self._first.append(Sampled.of(pair))

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
            room = DOCUMENTS - len(self._differ[name])
            self._differ[name] += [Sampled.of(waiting[at]) for at in found[:room]]
            differs |= in_layer
        if len(self._lengths) < REMEMBERED:
            alike = zip(waiting, (~differs).tolist(), strict=True)
            self._lengths += [
                (len(pair.places_a), is_alike) for pair, is_alike in alike if pair.way == "same"
            ]

    # --- what was recognised

    def _recognised(self, layers: Sequence[LayerComparison]) -> Iterator[RunDifference]:
        yield from self._of_tokens()
        different = [each.layer for each in layers if each.verdict == "different"]
        yield from self._of_dtypes(layers)
        unmatched = [name for name in self._a.layers if name not in self._common]
        named = list(self._of_layers(different + unmatched))
        yield from named
        if not different or named:
            return
        found = list(self._of_rows(different))
        yield from found
        if not found:
            yield from self._of_padding()

    def _of_tokens(self) -> Iterator[RunDifference]:
        tokens = ", ".join(str(token) for token, _ in self._first_tokens.most_common(3))
        for way, text in (
            ("dropped", "B drops the first token of A"),
            ("lacks", "A drops the first token of B"),
            ("doubled", "B has the first token twice (a doubled first token)"),
            ("undoubled", "A has the first token twice (a doubled first token)"),
        ):
            if count := self._ways[way]:
                where = f"in {_documents(count)}: token {tokens}"
                yield RunDifference("first token", f"first token: {text}, {where}")
        if count := self._ways["moved"]:
            text = f"the same tokens have other positions in {_documents(count)}"
            yield RunDifference(
                "padding side", f"another padding side: {text}, as if padding counted"
            )
        if count := self._ways["padded"]:
            text = f"one run has rows of padding in {_documents(count)}"
            yield RunDifference("padding side", f"another padding side, or none: {text}")
        if self._other_tokens:
            yield self._exchanged_texts()

    def _exchanged_texts(self) -> RunDifference:
        """Look for the tokens of a document under another number."""
        at_b = {theirs: number for number, _, theirs in self._other_tokens}
        found = [
            (number, at_b[mine])
            for number, mine, _ in self._other_tokens
            if at_b.get(mine, number) != number
        ]
        count = len(self._other_tokens)
        if found:
            return RunDifference(
                "documents", f"documents are exchanged, with their tokens: {_of(found)}"
            )
        return RunDifference(
            "tokens", f"{_documents(count)} have other tokens: another tokenizer or text"
        )

    def _of_dtypes(self, layers: Sequence[LayerComparison]) -> Iterator[RunDifference]:
        kinds: dict[tuple[str, str], list[LayerComparison]] = {}
        for each in layers:
            both = stored_dtype(self._a, each.layer), stored_dtype(self._b, each.layer)
            if each.rows and both[0] != both[1]:
                kinds.setdefault(both, []).append(each)
        for (one, other), some in kinds.items():
            explained = all(each.verdict != "different" for each in some)
            text = "rounding explains" if explained else "rounding does not explain"
            yield RunDifference(
                "dtype",
                f"another dtype: {one} in A and {other} in B; {text} all of the difference",
            )

    def _of_layers(self, layers: Sequence[str]) -> Iterator[RunDifference]:
        found = []
        for layer in layers:
            sample = self._sample(layer)
            if sample and (other := another_layer(sample, layer, self._b.layers)):
                found.append((layer, other))
        if found:
            together = natural_order({*self._a.layers, *self._b.layers})
            orders = (self._a.layers, self._b.layers, together)
            yield RunDifference("layers", layers_text(found, orders))

    def _of_rows(self, layers: Sequence[str]) -> Iterator[RunDifference]:
        """Look for rows that were rounded, of other documents, of other tokens, or normalised."""
        for layer in layers[:LOOKED_INTO]:
            sample = self._sample(layer)
            if sample is None:
                continue
            if text := rounded_dtype(sample, layer):
                yield RunDifference(
                    "dtype", f"another dtype: {text}, which explains the difference"
                )
                return
            if exchanged := exchanged_documents(sample, layer):
                yield RunDifference(
                    "documents", f"rows of documents are exchanged: {_of(exchanged)}"
                )
                return
            if moved := shifts(sample, layer):
                yield _shifted(moved)
                return
        for layer in layers:
            if (sample := self._sample(layer)) and (text := norm_of(sample, layer)):
                yield RunDifference("norm", f"a norm before or after, in {layer}: {text}")

    def _of_padding(self) -> Iterator[RunDifference]:
        """Look whether the longest document of each batch alone is alike, which has no padding."""
        alike = [length for length, is_alike in self._lengths if is_alike]
        others = [length for length, is_alike in self._lengths if not is_alike]
        if len(alike) < 2 or len(others) < 3:  # one that differs has other reasons
            return
        size = next((size for size in range(2, 513) if self._are_longest(size)), None)
        text = "another padding side: documents that are padded differ, and those without are alike"
        if size is not None:
            yield RunDifference("padding side", f"{text} (batches of {size})")
        elif min(alike) >= max(others):
            yield RunDifference("padding side", f"{text} (of {min(alike):,} tokens and more)")

    def _are_longest(self, size: int) -> bool:
        """Say whether the longest of each so many documents are alike, and no other."""
        if size > len(self._lengths):
            return False
        for start in range(0, len(self._lengths), size):
            batch = self._lengths[start : start + size]
            longest = max(length for length, _ in batch)
            if any(is_alike != (length == longest) for length, is_alike in batch):
                return False
        return True

    def _sample(self, layer: str) -> Sample | None:
        """Return the rows to look at: those that differ, or for a layer of one run the first."""
        documents = self._differ.get(layer) or ([] if layer in self._common else self._first)
        return Sample(self._a, self._b, documents) if documents else None


def _shifted(moved: dict[int, int]) -> RunDifference:
    steps = set(moved.values())
    named = ", ".join(f"document {number} by {by}" for number, by in [*moved.items()][:FEW])
    if steps in ({1}, {-1}):
        way = "later" if steps == {1} else "earlier"
        return RunDifference(
            "shift", f"rows are shifted by one: B has them one token {way} ({named})"
        )
    if len(steps) == 1:
        return RunDifference("shift", f"rows are shifted, all by the same: {named}")
    return RunDifference(
        "padding side",
        f"another padding side: rows are shifted by the padding of their batch: {named}",
    )


def _read(rows: Rows, numbers: Tensor) -> Tensor:
    """Read rows by their numbers, in one piece where they follow each other."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and bool((numbers.diff() == 1).all()):
        return rows[first : last + 1]
    return rows.take(numbers)


def _digest(document: DocumentRows) -> bytes:
    return hashlib.blake2b(document.tokens.numpy().tobytes(), digest_size=16).digest()


def _documents(count: int) -> str:
    return f"{count:,} document{'' if count == 1 else 's'}"


def _of(found: Sequence[tuple[int, int]]) -> str:
    """Say which document of A is which of B; an exchange of two once."""
    known = set(found)
    texts = [
        f"{a} and {b}" if (b, a) in known else f"{a} of A is {b} of B"
        for a, b in found
        if a < b or (b, a) not in known
    ]
    more = f" and {len(texts) - FEW} more" if len(texts) > FEW else ""
    return ", ".join(texts[:FEW]) + more
