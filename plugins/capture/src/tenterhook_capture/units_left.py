"""The units that an engine has still to hand out: each made when it is taken.

A plan may have more units than anyone should list. Those that nobody has begun stay what they are
in the plan, numbers; only those that were given back, one for each worker at most, are held.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from tenterhook_store import Unit


class UnitsLeft:
    """Units in order, those that were given back before the others."""

    def __init__(self, units: Sequence[Unit]) -> None:
        """Take from a sequence, which is read once, as far as units are taken."""
        self._units = iter(units)
        self._untouched = len(units)
        self._held: deque[Unit] = deque()

    def __len__(self) -> int:
        return len(self._held) + self._untouched

    def first(self) -> Unit:
        """Return the one that comes next, which stays; `IndexError` where there is none."""
        if not self._held and self._untouched:
            self._held.append(next(self._units))
            self._untouched -= 1
        return self._held[0]

    def take(self) -> Unit:
        """Return the one that comes next, which is gone; `IndexError` where there is none."""
        self.first()
        return self._held.popleft()

    def give_back(self, units: Iterable[Unit]) -> None:
        """Have units come next, in their order."""
        self._held.extendleft(reversed([*units]))
