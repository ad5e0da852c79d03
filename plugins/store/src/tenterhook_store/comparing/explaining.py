"""What is known to make two runs differ: what is remembered of them for it, and what is said of it.

Each kind is looked for by `recognising`, in the rows of documents that differ; here is which kinds
are looked for where, and the sentences.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import attrs

from tenterhook_store.comparing.measuring import LayerComparison
from tenterhook_store.comparing.pairing import Way
from tenterhook_store.comparing.recognising import (
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

LOOKED_INTO = 4
"""Layers in which rows of other documents and tokens are looked for."""


@attrs.define(eq=False)
class Evidence:
    """What is remembered of two runs while they are read."""

    a: Readable
    b: Readable
    common: Sequence[str]
    """The layers that both have."""
    ways: Counter[Way] = attrs.field(factory=Counter)
    """In how many documents the tokens agree in each way."""
    first_tokens: Counter[int] = attrs.field(factory=Counter)
    """First tokens that were dropped or doubled."""
    other_tokens: list[tuple[int, bytes, bytes]] = attrs.field(factory=list)
    """Documents of other tokens, by number, with a hash of the tokens in both runs."""
    first: list[Sampled] = attrs.field(factory=list)
    """The first documents that both have."""
    differ: dict[str, list[Sampled]] = attrs.field(factory=dict)
    """The first documents that differ, by layer."""
    lengths: list[tuple[int, bool]] = attrs.field(factory=list)
    """How many rows a document has, and whether they are alike, in the documents' order."""

    def recognised(self, layers: Sequence[LayerComparison]) -> Iterator[RunDifference]:
        """Look for what makes the runs differ, once both are read."""
        yield from self._of_tokens()
        different = [each.layer for each in layers if each.verdict == "different"]
        yield from self._of_dtypes(layers)
        unmatched = [name for name in self.a.layers if name not in self.common]
        named = list(self._of_layers(different + unmatched))
        yield from named
        if unmatched and not named:
            yield from self._of_norms(unmatched)
        if not different or named:
            return
        found = list(self._of_rows(different))
        yield from found
        if not found:
            yield from self._of_padding()

    def _of_tokens(self) -> Iterator[RunDifference]:
        tokens = ", ".join(str(token) for token, _ in self.first_tokens.most_common(3))
        sentences: dict[Way, str] = {
            "dropped": "B drops the first token of A",
            "lacks": "A drops the first token of B",
            "doubled": "B has the first token twice (a doubled first token)",
            "undoubled": "A has the first token twice (a doubled first token)",
        }
        for way, text in sentences.items():
            if count := self.ways[way]:
                where = f"in {_documents(count)}: token {tokens}"
                yield RunDifference("first token", f"first token: {text}, {where}")
        if count := self.ways["moved"]:
            text = f"the same tokens have other positions in {_documents(count)}"
            yield RunDifference(
                "padding side", f"another padding side: {text}, as if padding counted"
            )
        if count := self.ways["padded"]:
            text = f"one run has rows of padding in {_documents(count)}"
            yield RunDifference("padding side", f"another padding side, or none: {text}")
        if self.other_tokens:
            yield self._exchanged_texts()

    def _exchanged_texts(self) -> RunDifference:
        """Look for the tokens of a document under another number."""
        at_b = {theirs: number for number, _, theirs in self.other_tokens}
        found = [
            (number, at_b[mine])
            for number, mine, _ in self.other_tokens
            if at_b.get(mine, number) != number
        ]
        count = len(self.other_tokens)
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
            both = stored_dtype(self.a, each.layer), stored_dtype(self.b, each.layer)
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
            if sample and (other := another_layer(sample, layer, self.b.layers)):
                found.append((layer, other))
        if found:
            together = natural_order({*self.a.layers, *self.b.layers})
            orders = (self.a.layers, self.b.layers, together)
            yield RunDifference("layers", layers_text(found, orders))

    def _of_norms(self, layers: Sequence[str]) -> Iterator[RunDifference]:
        """Look whether layers that one run alone has are those of the other before a norm."""
        others = [name for name in self.b.layers if name not in self.common]
        for layer in layers[:LOOKED_INTO]:
            sample = self._sample(layer)
            for other in others[:LOOKED_INTO]:
                if sample and (text := norm_of(sample, layer, other)):
                    where = f"{layer} of A and {other} of B"
                    yield RunDifference("norm", f"a norm before or after, in {where}: {text}")

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
        alike = [length for length, is_alike in self.lengths if is_alike]
        others = [length for length, is_alike in self.lengths if not is_alike]
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
        if size > len(self.lengths):
            return False
        for start in range(0, len(self.lengths), size):
            batch = self.lengths[start : start + size]
            longest = max(length for length, _ in batch)
            if any(is_alike != (length == longest) for length, is_alike in batch):
                return False
        return True

    def _sample(self, layer: str) -> Sample | None:
        """Return the rows to look at: those that differ, or for a layer of one run the first."""
        documents = self.differ.get(layer) or ([] if layer in self.common else self.first)
        return Sample(self.a, self.b, documents) if documents else None


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
