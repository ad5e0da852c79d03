"""Which tokens have rows, and which windows a unit has to run for its own."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import attrs

from tenterhook_capture.errors import NothingChosen
from tenterhook_capture.options import selected
from tenterhook_capture.spilled import Numbers
from tenterhook_capture.tokens import Span, TokenRows, Window
from tenterhook_store import Unit

PARTS = 3
"""Numbers that are kept of a window."""


@attrs.frozen
class Piece:
    """A window that is run for a unit, and its tokens that are rows of that unit."""

    window: Window
    row: int
    """Of the first of them."""
    offsets: Sequence[int]
    """Which tokens of the window they are, ascending, from 0."""


class ChosenRows:
    """The rows of a run: all tokens, or those of each document that a selection chooses.

    A document's tokens are those that are kept of it, whether it is run as one window or several.
    """

    def __init__(self, tokens: TokenRows, chosen: str | None = None) -> None:
        """`chosen` is a selection as text, as `CaptureOptions.tokens` has it.

        Raises `NothingChosen` where no document has a token that it chooses.
        """
        self.tokens = tokens
        self._selection = selected(chosen)
        self._longest = 0
        self._windows = Numbers("q")
        """The first row, the number, and the tokens of the whole document, of each window."""
        self._rows = 0
        document: list[Span] = []
        for number, span in enumerate(tokens.spans()):
            self._longest = max(self._longest, span.length)
            if document and document[0].document != span.document:
                self._add(document, number - len(document))
                document = []
            document.append(span)
        self._add(document, tokens.window_count - len(document))
        if chosen is not None and not self._rows:
            raise NothingChosen(chosen, tokens.longest_document)

    def __len__(self) -> int:
        return self._rows

    @property
    def longest(self) -> int:
        """Tokens of the longest window."""
        return self._longest

    def pieces(self, unit: Unit) -> Iterator[Piece]:
        """Yield what has rows in the unit, in the order of the rows."""
        windows = range(len(self._windows) // PARTS)
        first = bisect_right(windows, unit.start, key=self._start) - 1
        for at in range(first, bisect_left(windows, unit.stop, key=self._start)):
            start, number, count = self._windows[PARTS * at : PARTS * (at + 1)]
            window = self.tokens.window(number)
            own = slice(max(unit.start - start, 0), unit.stop - start)
            offsets = self._offsets(window.position, len(window.ids), count)[own]
            yield Piece(window, start + own.start, offsets)

    def _start(self, window: int) -> int:
        return self._windows[PARTS * window]

    def _add(self, spans: list[Span], first: int) -> None:
        count = sum(span.length for span in spans)
        for number, span in enumerate(spans, first):
            if chosen := len(self._offsets(span.position, span.length, count)):
                self._windows.extend((self._rows, number, count))
                self._rows += chosen

    def _offsets(self, position: int, length: int, count: int) -> Sequence[int]:
        here = range(position, position + length)
        if self._selection is None:
            return range(length)
        chosen = self._selection.positions(count)
        own = chosen[bisect_left(chosen, here.start) : bisect_left(chosen, here.stop)]
        return [at - here.start for at in own]
