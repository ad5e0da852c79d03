"""Which documents of two runs are the same text.

A capture keeps a hash of each text with its run. Where two runs say that they are of the same
texts in the same order, nothing is read. Else the hashes of documents of the same number are
compared; runs of earlier versions have none, and then nobody knows which documents are the same.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from tenterhook_store.aligning.alignable import Alignable
from tenterhook_store.errors import CannotAlign, DamagedStore
from tenterhook_store.row_ranges import RANGES
from tenterhook_store.shared_tensors import SharedTensors

TEXTS = "texts"
"""What the hashes of the documents are shared under, and the name of the tensor in each piece."""

AT_ONCE = 1 << 18
"""Documents whose hashes are compared at once."""

FINGERPRINT = "documents_fingerprint"


@final
class SameTexts:
    """Says which documents are the same text in two runs; those that are not, it names."""

    def __init__(self, a: Alignable, b: Alignable) -> None:
        """Raises `CannotAlign` where no document is, or nobody knows."""
        self.different: tuple[int, ...] = ()
        """Numbers of documents that are another text in each run, the first `RANGES` of them."""
        self.different_count = 0
        """How many there are."""
        self._hashes: tuple[_Hashes, _Hashes] | None = None
        _check_conversations(a, b)
        self._documents = min(a.plan.documents, b.plan.documents)
        if a.plan.spec.get(FINGERPRINT) != b.plan.spec.get(FINGERPRINT):
            self._compare(a, b)
        elif a.plan.documents != b.plan.documents:
            counts = f"{a.plan.documents:,} and {b.plan.documents:,} documents"
            raise CannotAlign(a.id, b.id, f"they have {counts}, and do not say of which texts")

    def __call__(self, numbers: Tensor) -> Tensor:
        """Return whether each of some documents is the same; int64 `[n]`, rising, to bool `[n]`."""
        if self._hashes is None:
            return torch.ones(len(numbers), dtype=torch.bool)
        one, other = self._hashes
        in_both = numbers < self._documents
        some = numbers[in_both]
        found = torch.zeros(len(numbers), dtype=torch.bool)
        found[in_both] = one.take(some) == other.take(some)
        return found

    def _compare(self, a: Alignable, b: Alignable) -> None:
        one, other = _Hashes.of(a), _Hashes.of(b)
        if one is None or other is None:
            without = a.id if one is None else b.id
            raise CannotAlign(
                a.id,
                b.id,
                f"they are of other documents, and {without!r}, which an earlier version began or "
                "a store that shares nothing keeps, does not say which of them are the same. "
                "Capture the same documents in both",
            )
        self._hashes = one, other
        named: list[int] = []
        for start in range(0, self._documents, AT_ONCE):
            some = torch.arange(start, min(start + AT_ONCE, self._documents))
            differ = some[~self(some)]
            self.different_count += len(differ)
            named += differ[: RANGES - len(named)].tolist()
        self.different = tuple(named)
        if self.different_count == self._documents:
            raise CannotAlign(
                a.id, b.id, "they are of other data sets: no document of one is that of the other"
            )


class _Hashes:
    """The hash of each document of a run, a piece at a time in memory."""

    def __init__(self, shared: SharedTensors, run_id: str) -> None:
        self._where = f"the hashes of the documents of run {run_id}"
        size = shared.facts.get("piece")
        if type(size) is not int or size < 1:
            raise DamagedStore(self._where, "they do not say how many are in a piece")
        self._size = size
        self._load = lru_cache(maxsize=2)(lambda piece: self._checked(shared, piece))

    @classmethod
    def of(cls, run: Alignable) -> "_Hashes | None":
        shared = run.shared(TEXTS)
        return None if shared is None else cls(shared, run.id)

    def take(self, numbers: Tensor) -> Tensor:
        """Return those of some documents, rising; int64 `[n]`."""
        parts = [self._load(piece)[some] for piece, some in _by_piece(numbers, self._size)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _checked(self, shared: SharedTensors, piece: int) -> Tensor:
        found = shared.load(piece).get(TEXTS) if piece < len(shared) else None
        if found is None or found.dtype != torch.int64 or found.ndim != 1:
            raise DamagedStore(self._where, f"piece {piece} is not there")
        return found


def _by_piece(numbers: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Return the pieces that numbers are in, and which of each piece; the numbers rise."""
    pieces, counts = torch.unique_consecutive(numbers // size, return_counts=True)
    parts = numbers.split(counts.tolist()) if len(numbers) else ()  # type: ignore[no-untyped-call]
    for piece, some in zip(pieces.tolist(), parts, strict=True):
        yield piece, some - piece * size


def _check_conversations(a: Alignable, b: Alignable) -> None:
    """Raise `CannotAlign` for conversations of which each run's template makes another text."""
    of_messages = ["template" in run.plan.about for run in (a, b)]
    key = "template_fingerprint"
    if not any(of_messages):
        return
    if not all(of_messages):
        raise CannotAlign(a.id, b.id, "one is of conversations, and the other of texts")
    made = [run.plan.spec.get(key) for run in (a, b)]
    if made[0] is None or made[0] != made[1]:
        raise CannotAlign(
            a.id,
            b.id,
            "they are of conversations, of which chat templates or tokenizers made other tokens, "
            "so their characters are of other texts. Capture the text that one template makes, "
            "in both",
        )
