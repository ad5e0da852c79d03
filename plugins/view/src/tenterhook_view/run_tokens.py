"""The tokens of a run that are shown: which rows, of which documents, and what stands for each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from tenterhook_store import NoTokenizer, Run
from tenterhook_store.tokenizer import load_tokenizer
from tenterhook_view.errors import NoSuchDocument, NothingToShow
from tenterhook_view.token_texts import token_texts

MOST_TOKENS = 10_000
"""Tokens on a page, unless fewer are asked for."""


@attrs.frozen(kw_only=True, eq=False)
class RunTokens:
    """Some tokens of a run, in its order."""

    run: Run
    rows: Sequence[tuple[int, int]]
    """The rows, as ranges `start, stop` that are all there."""
    documents: Sequence[int]
    """The document of each token."""
    positions: Sequence[int]
    """Which token of its document each is."""
    ids: Sequence[int]
    """The id of each."""
    texts: Sequence[str]
    """What stands for each; nothing in them is hidden."""
    note: str
    """What a reader should know: that these are not all, that there was no tokenizer."""
    count: Callable[[int], object] = lambda rows: None
    """Is called with how many rows of a layer were read."""

    def __len__(self) -> int:
        return len(self.texts)

    def by_document(self) -> Iterator[tuple[int, range]]:
        """Yield each document with the places of its tokens among all of them."""
        start = 0
        for at in range(1, len(self.documents) + 1):
            if at == len(self.documents) or self.documents[at] != self.documents[start]:
                yield self.documents[start], range(start, at)
                start = at


def run_tokens(
    run: Run,
    *,
    documents: Sequence[int] | None = None,
    most: int = MOST_TOKENS,
    tokenizer: Any = None,
) -> RunTokens:
    """Choose the first tokens of a run, or of some documents, and read what they are.

    `tokenizer` is anything with `decode(ids)`; without one, that of the run's model is loaded, and
    where there is none, token ids stand for the tokens. Raises `NoSuchDocument` (an `IndexError`)
    and `NothingToShow` (a `LookupError`) where no rows are there.
    """
    if documents is None:
        rows = list(run.ranges.stretches(0, min(most, run.rows_committed)))
        left = run.rows_committed - sum(stop - start for start, stop in rows)
    else:
        rows, left = _of_documents(run, documents, most)
    if not rows:
        raise NothingToShow(run.id, "no rows are committed")
    ids, index, positions = (
        torch.cat([array[start:stop] for start, stop in rows]).tolist()
        for array in (run.tokens, run.documents.index, run.documents.position)
    )
    notes = [f"{left:,} tokens more are not shown."] if left else []
    if tokenizer is None:
        try:
            tokenizer = load_tokenizer(run.id, run.plan.about)
        except NoTokenizer as error:
            notes.append(f"Token ids stand for tokens: {error}")
    return RunTokens(
        run=run,
        rows=rows,
        documents=index,
        positions=positions,
        ids=ids,
        texts=token_texts(ids, tokenizer),
        note=" ".join(notes),
    )


def _of_documents(
    run: Run, documents: Sequence[int], most: int
) -> tuple[list[tuple[int, int]], int]:
    """Return the rows of documents, `most` of them, and how many more there are."""
    found: list[tuple[int, int]] = []
    room, left = most, 0
    for document in documents:
        try:
            rows = run.documents.rows(document)
        except IndexError:
            raise NoSuchDocument(document, len(run.documents), run.id) from None
        there = run.ranges.within(rows.start, rows.stop)
        if not there.rows:
            raise NoSuchDocument(document, len(run.documents), run.id)
        for part in there:
            stop = min(part.stop, part.start + room)
            left += part.stop - stop
            room -= stop - part.start
            if stop > part.start:
                found.append((part.start, stop))
    return found, left


def blocks(tokens: RunTokens, layer: str) -> Iterator[Tensor]:
    """Yield the rows of a layer in blocks of 16 MB, `[n, features]` in float32, on the CPU."""
    rows = tokens.run[layer]
    most = max(1, 2**22 // max(rows.shape[1], 1))
    for start, stop in tokens.rows:
        for first in range(start, stop, most):
            last = min(first + most, stop)
            yield rows[first:last].float()
            tokens.count(last - first)
