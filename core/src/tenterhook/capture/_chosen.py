"""Which tokens have rows, and which windows a unit has to run for its own."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import attrs

from tenterhook.capture._errors import NothingChosen
from tenterhook.capture._options import selected
from tenterhook.capture._tokens import TokenRows, Window
from tenterhook.store import Unit


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
    Beside the tokens themselves, 32 bytes a window are held where there is a selection.
    """

    def __init__(self, tokens: TokenRows, chosen: str | None = None) -> None:
        """`chosen` is a selection as text, as `CaptureOptions.tokens` has it.

        Raises `NothingChosen` where no document has a token that it chooses.
        """
        self.tokens = tokens
        self._selection = selected(chosen)
        self._longest = 0
        self._starts, self._windows, self._counts = array("q"), array("q"), array("q")
        self._rows = 0
        document: list[Window] = []
        for number in range(tokens.window_count):
            window = tokens.window(number)
            self._longest = max(self._longest, len(window.ids))
            if document and document[0].document != window.document:
                self._add(document, number - len(document))
                document = []
            document.append(window)
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
        first = bisect_right(self._starts, unit.start) - 1
        for at in range(first, bisect_left(self._starts, unit.stop)):
            window = self.tokens.window(self._windows[at])
            start = self._starts[at]
            own = slice(max(unit.start - start, 0), unit.stop - start)
            offsets = self._offsets(window, self._counts[at])[own]
            yield Piece(window, start + own.start, offsets)

    def _add(self, windows: list[Window], first: int) -> None:
        count = sum(len(window.ids) for window in windows)
        for at, window in enumerate(windows):
            if chosen := len(self._offsets(window, count)):
                self._starts.append(self._rows)
                self._windows.append(first + at)
                self._counts.append(count)
                self._rows += chosen

    def _offsets(self, window: Window, count: int) -> Sequence[int]:
        here = range(window.position, window.position + len(window.ids))
        if self._selection is None:
            return range(len(window.ids))
        chosen = self._selection.positions(count)
        own = chosen[bisect_left(chosen, here.start) : bisect_left(chosen, here.stop)]
        return [at - here.start for at in own]
