"""Documents as tokens, each token with its row, before anything is run.

`TokenRows` numbers all tokens of the documents. `ChosenRows` numbers those that are rows of the
run, and finds which windows a unit has to run for its rows.
"""

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any, get_args

import attrs
import torch
from torch import Tensor

from tenterhook_capture import special_tokens
from tenterhook_capture.document_tokens import DocumentTokens, OnDocuments
from tenterhook_capture.documents import Documents
from tenterhook_capture.errors import BadArgument, NothingChosen, NothingToCapture
from tenterhook_capture.lazy_texts import AT_ONCE
from tenterhook_capture.options import LongDocuments, selected
from tenterhook_capture.spilled import NumberColumn, Numbers
from tenterhook_capture.text_model import TextModel
from tenterhook_store import NOWHERE, Unit

PARTS = 3
"""Numbers that are kept of a window, by `TokenRows` and by `ChosenRows`.

They stand flat, one window after another, in `Numbers`, which go to a file where there are many,
so that a capture's memory does not grow with its documents (test_zarr_capture_memory)."""

FEW = 65536
"""Numbers that are in memory at once where all of them are gone through."""

Beside = Callable[[Sequence[int]], tuple[list[int], list[int]]]
"""Makes the tokens that rows stand beside of those that are run; see `TextModel`."""


@attrs.frozen(kw_only=True)
class TokenCounts:
    """What became of the documents."""

    documents: int
    """All that there were, within the limit."""
    documents_without_tokens: int
    documents_too_long: int
    """Longer than the model takes."""
    tokens: int
    """Kept: the rows of the run."""
    tokens_cut: int
    """Lost to truncation."""


@attrs.frozen
class Span:
    """Where the tokens of a window are."""

    start: int
    """Row of its first token."""
    document: int
    position: int
    """Of its first token, in the document."""
    length: int


@attrs.frozen
class Window:
    """Tokens that one forward sees together: a document, or a part of a long one."""

    start: int
    """Row of its first token."""
    document: int
    position: int
    """Of its first token, in the document."""
    ids: list[int]
    tokens: Sequence[int] = attrs.Factory(lambda window: window.ids, takes_self=True)
    """The tokens that the rows stand beside: `ids`, unless a decoder is given others."""
    characters: "array[int] | None" = None
    """Where those of each token begin and end in the document, one token after another; -1 and -1
    for a token that stands for none. `None` where the tokenizer does not tell."""


class TokenRows:
    """All tokens that are kept, flat, in the order of the documents: a token is a row.

    Few are in memory at a time.
    """

    def __init__(
        self,
        counts: TokenCounts,
        ids: NumberColumn,
        windows: NumberColumn,
        without: NumberColumn,
        with_role: NumberColumn | None = None,
        characters: NumberColumn | None = None,
        beside: Beside | None = None,
        *,
        keeps_ends: bool = False,
    ) -> None:
        """`windows` has the first row, the document and the position of each, one after another.

        `with_role` is 1 for each token that has the role that is wanted, and 0 for others.
        `characters` has where those of each token begin and end. `beside` says which tokens rows
        stand beside; see `TextModel`.
        """
        self.keeps_ends = keeps_ends
        """Whether a document was cut and did not keep its first tokens alone, but the special
        tokens after it, or its end."""
        self.counts = counts
        self.with_role = with_role
        self.without = without
        """The documents that have no token, in order."""
        self.characters = characters
        self.beside = beside
        self.all_ids = ids
        """Every token, flat."""
        self.windows = windows
        """The first row, the document and the position of each window, flat."""

    def __len__(self) -> int:
        return len(self.all_ids)

    @property
    def longest_document(self) -> int:
        """The tokens that are kept of the longest document."""
        return max(span.position + span.length for span in self.spans())

    @property
    def window_count(self) -> int:
        """How many windows there are."""
        return len(self.windows) // PARTS

    def ids(self, start: int, length: int) -> list[int]:
        """Return some of the tokens."""
        return self.all_ids[start : start + length].tolist()

    def where(self, token: int) -> str:
        """Return of which document a token is, and which of its tokens, for people."""
        numbers = range(self.window_count)
        at = bisect_right(numbers, token, key=lambda number: self.windows[PARTS * number]) - 1
        start, document, position = self.windows[PARTS * at : PARTS * (at + 1)]
        return f"token {position + token - start} of document {document}"

    def fingerprint(self) -> str:
        """Return the sha256 of all tokens, and of where each document and window begins."""
        digest = hashlib.sha256()
        for numbers in (self.all_ids, self.windows):
            digest.update(len(numbers).to_bytes(8, "little"))
            for first in range(0, len(numbers), FEW):
                digest.update(numbers[first : first + FEW].tobytes())
        return digest.hexdigest()

    def spans(self) -> Iterator[Span]:
        """Yield where each window is, in order."""
        for first in range(0, self.window_count, AT_ONCE):
            some = self.windows[PARTS * first : PARTS * (first + AT_ONCE) + 1]
            for at in range(0, len(some) - 1, PARTS):
                start, document, position = some[at : at + PARTS]
                stop = some[at + PARTS] if at + PARTS < len(some) else len(self.all_ids)
                yield Span(start, document, position, stop - start)

    def window(self, number: int) -> Window:
        """Return one window."""
        found = self.windows[PARTS * number : PARTS * (number + 1) + 1]
        start, document, position = found[:PARTS]
        stop = found[PARTS] if len(found) > PARTS else len(self.all_ids)
        ids = self.all_ids[start:stop].tolist()
        characters = None if self.characters is None else self.characters[2 * start : 2 * stop]
        if self.beside is None:
            return Window(start, document, position, ids, ids, characters)
        tokens, places = self.beside(ids)
        if characters is not None:
            spans = [characters[2 * at : 2 * at + 2] if at >= 0 else NOWHERE for at in places]
            characters = array("i", chain.from_iterable(spans))
        return Window(start, document, position, ids, tokens, characters)


def tokenize(
    model: TextModel,
    documents: Documents,
    *,
    long_documents: LongDocuments = "truncate",
    role: str | None = None,
    no_special_tokens: bool = False,
    window_special_tokens: bool = False,
    on_documents: OnDocuments | None = None,
) -> TokenRows:
    """Give every token of the documents its row, and note which of them have a role, if asked.

    A document without tokens has no rows; raises `NothingToCapture` where none has any, and
    `BadArgument` for another `long_documents`.
    """
    if long_documents not in get_args(LongDocuments):
        raise BadArgument("long_documents", long_documents, "'truncate', 'split' or 'head'")
    longest = model.max_tokens
    ids, windows, without = Numbers("i"), Numbers("q"), Numbers("q")
    too_long = lost = 0
    keeps_ends = False
    with_role = None if role is None else Numbers("i")
    characters: Numbers | None = Numbers("i")
    if role is not None and not documents.are_messages:
        kind = "token ids" if documents.are_token_ids else "texts"
        hint = f"positions: these documents are {kind}, and messages alone have roles"
        raise BadArgument("tokens", role, hint)
    found_tokens = DocumentTokens(
        model, documents, no_special_tokens=no_special_tokens, on_documents=on_documents
    )
    for document, encoded in enumerate(found_tokens):
        found = encoded.ids
        places: Sequence[int] = range(len(found))
        if not found:
            without.extend((document,))
        if longest is not None and len(found) > longest:
            too_long += 1
            if long_documents == "split":
                if window_special_tokens:
                    places = special_tokens.windows(found, longest, found_tokens.special)
                    found = special_tokens.window_ids(found, places, longest, found_tokens.special)
            else:
                lost += len(found) - longest
                places = range(longest)
                if long_documents == "truncate":
                    places = special_tokens.cut(found, longest, found_tokens.around)
                    keeps_ends = keeps_ends or places[-1] != longest - 1
                found = [found[place] for place in places]
        for position in range(0, len(found), longest or len(found) or 1):
            windows.extend((len(ids) + position, document, position))
        ids.extend(found)
        if encoded.characters is None:
            characters = None  # all tokens have them, or none
        elif characters is not None:
            spans = [*encoded.characters]
            kept = (NOWHERE if at == special_tokens.INSERTED else spans[at] for at in places)
            characters.extend(chain.from_iterable(kept))
        if with_role is not None:
            with_role.extend(_has_role(encoded.roles, role, document, found, places))
    if not len(ids):
        raise NothingToCapture(documents.source, len(documents))
    counts = TokenCounts(
        documents=len(documents),
        documents_without_tokens=len(without),
        documents_too_long=too_long,
        tokens=len(ids),
        tokens_cut=lost,
    )
    return TokenRows(
        counts,
        ids,
        windows,
        without,
        with_role,
        characters,
        getattr(model, "tokens_beside", None),
        keeps_ends=keeps_ends,
    )


def _has_role(
    roles: Any, role: str | None, document: int, ids: Sequence[int], places: Sequence[int]
) -> list[int]:
    """Return 1 for each token that is kept of a document and has the role, 0 for each other.

    `places` says which token of the document each is, or that it was inserted.
    """
    names = [None if at == special_tokens.INSERTED else roles.names[at] for at in places]
    kept = attrs.evolve(roles, ids=ids, names=names, turn=len(ids))
    try:
        found = {*kept.where(role)}
    except ValueError as error:
        raise BadArgument("tokens", role, f"told in document {document}: {error}") from None
    return [int(at in found) for at in range(len(ids))]


def numbers(windows: list[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token id, document and position of every row of the windows.

    int32, int64 and int32, `(rows,)` each.
    """
    ids = torch.tensor([each for window in windows for each in window.tokens], dtype=torch.int32)
    lengths = torch.tensor([len(window.ids) for window in windows])
    documents = torch.tensor([window.document for window in windows]).repeat_interleave(lengths)
    positions = torch.cat(
        [
            torch.arange(window.position, window.position + len(window.ids), dtype=torch.int32)
            for window in windows
        ]
    )
    return ids, documents, positions


def spans(windows: list[Window]) -> Tensor | None:
    """Return the characters of every row of the windows, int32 `(rows, 2)`, in its document.

    `None` where they are not known.
    """
    found = array("i")
    for window in windows:
        if window.characters is None:
            return None
        found += window.characters
    return torch.frombuffer(found, dtype=torch.int32).reshape(-1, 2)


@attrs.frozen
class Piece:
    """A window that is run for a unit, and its tokens that are rows of that unit."""

    window: Window
    row: int
    """Of the first of them."""
    offsets: Sequence[int]
    """Which tokens of the window they are, ascending, from 0."""


@attrs.frozen(eq=False, kw_only=True)
class ChosenWindows:
    """The windows that have rows of a run."""

    places: NumberColumn
    """The first row, the number, and the tokens of the whole document, of each, flat."""
    rows: int
    """Of the run."""
    longest: int
    """Tokens of the longest window, whether it has rows or not."""
    shortest: int


class ChosenRows:
    """The rows of a run: all tokens, or those of each document that a selection chooses.

    A document's tokens are those that are kept of it, whether it is run as one window or several.
    """

    def __init__(
        self, tokens: TokenRows, chosen: str | None = None, windows: ChosenWindows | None = None
    ) -> None:
        """`chosen` is a selection as text, as `CaptureOptions.tokens` has it.

        `windows` are those that have rows by it, where that is known. Raises `NothingChosen` where
        no document has a token that it chooses.
        """
        self.tokens = tokens
        self._selection = selected(chosen)
        self.windows = self._find_windows() if windows is None else windows
        if chosen is not None and not self.windows.rows:
            raise NothingChosen(chosen, tokens.longest_document)

    def __len__(self) -> int:
        return self.windows.rows

    @property
    def longest(self) -> int:
        """Tokens of the longest window."""
        return self.windows.longest

    @property
    def shortest(self) -> int:
        """Tokens of the shortest window."""
        return self.windows.shortest

    def pieces(self, unit: Unit) -> Iterator[Piece]:
        """Yield what has rows in the unit, in the order of the rows."""
        windows = range(len(self.windows.places) // PARTS)
        first = bisect_right(windows, unit.start, key=self._start) - 1
        for at in range(first, bisect_left(windows, unit.stop, key=self._start)):
            start, number, count = self.windows.places[PARTS * at : PARTS * (at + 1)]
            window = self.tokens.window(number)
            own = slice(max(unit.start - start, 0), unit.stop - start)
            offsets = self._offsets(window.start, window.position, len(window.ids), count)[own]
            yield Piece(window, start + own.start, offsets)

    def documents_of(self, unit: Unit) -> slice:
        """Return which documents are a unit's own, where something is kept of each once.

        Those from the one that its first row is of up to the one that the next unit's first row is
        of, and those without rows between them.
        """
        first = 0 if unit.start == 0 else self._document_at(unit.start)
        whole = unit.stop >= len(self)
        return slice(first, self.tokens.counts.documents if whole else self._document_at(unit.stop))

    def _document_at(self, row: int) -> int:
        windows = range(len(self.windows.places) // PARTS)
        at = bisect_right(windows, row, key=self._start) - 1
        return self.tokens.window(self.windows.places[PARTS * at + 1]).document

    def _start(self, window: int) -> int:
        return self.windows.places[PARTS * window]

    def _find_windows(self) -> ChosenWindows:
        places, rows = Numbers("q"), 0
        longest = shortest = number = 0
        for _, of_document in groupby(self.tokens.spans(), lambda span: span.document):
            spans = [*of_document]
            lengths = [span.length for span in spans]
            longest, shortest = max(longest, *lengths), min(shortest or lengths[0], *lengths)
            for span in spans:
                if found := len(
                    self._offsets(span.start, span.position, span.length, sum(lengths))
                ):
                    places.extend((rows, number, sum(lengths)))
                    rows += found
                number += 1
        return ChosenWindows(places=places, rows=rows, longest=longest, shortest=shortest)

    def _offsets(self, start: int, position: int, length: int, count: int) -> Sequence[int]:
        flags = self.tokens.with_role
        if flags is not None:
            has = flags[start : start + length]
            if self.tokens.beside is not None:
                _, places = self.tokens.beside(self.tokens.ids(start, length))
                return [at for at, place in enumerate(places) if place >= 0 and has[place]]
            return [at for at, flag in enumerate(has) if flag]
        here = range(position, position + length)
        if self._selection is None:
            return range(length)
        chosen = self._selection.positions(count)
        own = chosen[bisect_left(chosen, here.start) : bisect_left(chosen, here.stop)]
        return [at - here.start for at in own]
