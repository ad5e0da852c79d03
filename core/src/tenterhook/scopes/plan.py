"""What scopes on the same layers have in common, worked out once and used again.

Opening a scope is to cost next to nothing, because people open one around each call. So what can
be worked out once is kept from one scope to the next:

- A `Plan` is the layers of one set of names and their sites. The model's index keeps it as long as
  it finds the same layers for the names, which it looks at anew for each scope.
- An `Opening` is what one open scope runs: a *part* for each layer, a recorder or a hook's change,
  and the steps at the sites that hold it. When its scope has ended in good order, the plan keeps it
  for the next. What is the scope's alone, the lists that it fills or the hooks that it was given,
  is not in the parts: it is in `own`, and each opening has its own.
- A part that is the only thing at its site stands in the module's own hooks itself (`alone`). It
  checks that its scope is the innermost one of the thread that calls. In any other case it hands
  over to the site, which asks what runs.

Opening and closing a capture of 48 layers would take 2 times as long with what runs made anew, 3
times with a plan made anew, 8 times with the names looked up anew; a steer on a pattern 1.6, 2.6
and 3.5 times (`benchmarks/bench_tricks.py`). `test_scopes_property.py` and `test_scopes_threads.py`
hold all this to what scopes without any of it would give, and `test_scopes_again.py` does so for
what is used again.
"""

import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Self

import attrs
from torch import nn

from tenterhook._dispatch.entries import StopForward
from tenterhook._dispatch.frames import Place, Steps
from tenterhook._dispatch.sites import Installs, Side, Site, installs_of, site_of

CLOSED: Any = object()
"""The frame of an opening while no scope uses it: no thread's innermost one."""


@attrs.define(eq=False, repr=False)
class Opening:
    """What one open scope runs, and where."""

    frame: Any = CLOSED
    """The frame of the scope that uses it."""
    scope: Any = None
    """That scope."""
    steps: dict[Place, Steps] = attrs.field(factory=dict)
    """What runs where."""
    installs: Installs | None = None
    """The short way to all sites of the steps, where there is one; see `open_frame`."""
    parts: list[Any] = attrs.field(factory=list)
    """What stands at the layers."""
    own: Sequence[Any] = ()
    """What the parts work with in this opening: each looks its own up by number."""
    ran: list[int] = attrs.field(factory=list)
    """How many calls came by each part, where they do not fill lists."""
    without: dict[str, str] = attrs.field(factory=dict)
    """What the layers did that gave no tensor."""

    def put(self, place: Place, new: Steps) -> None:
        """Have `new` run at `place` after what runs there already."""
        steps = self.steps
        steps[place] = steps[place] + new if place in steps else new

    def stop(self) -> None:
        """End the forward, by an exception that names the scope."""
        raise StopForward(self.scope)

    def let_go(self) -> None:
        """Forget the parts, which know this opening: a cycle would keep what the scope had."""
        self.parts, self.steps, self.installs = [], {}, None


class Part:
    """What a scope runs at one layer; `Entry` says what its methods are called with."""

    __slots__ = ("at", "layer", "opening", "site")
    records = False
    """Whether it keeps what it sees for the user."""
    opening: Opening
    site: Site

    def __init__(self, layer: str, at: int) -> None:
        self.layer, self.at = layer, at

    def detecting(self) -> Self | None:
        """Return what is left of it while controllers are off."""
        return self

    def __reduce__(self) -> Any:
        """Return, for a copy of a module in the open scope, one that is of no scope."""
        return object.__new__, (type(self),)


class Spot(NamedTuple):
    """Where one part goes."""

    name: str
    """The layer's."""
    module: nn.Module
    side: Side
    backward: bool = False


class Plan:
    """The layers of a scope, their sites, and the openings that no scope uses now."""

    def __init__(
        self,
        spots: Sequence[Spot],
        make: Callable[[str, int], Part],
        stop: nn.Module | None = None,
    ) -> None:
        """`make` makes a part, of a layer's name and its number; each forward ends at `stop`."""
        self.names = [spot.name for spot in spots]
        self.spots, self._make, self._stop = spots, make, stop
        places = [(spot.module, spot.side) for spot in spots]
        places += [] if stop is None else [(stop, "after")]
        self._sites = [site_of(module, side) for module, side in places]
        self._attributes = [vars(module) for module, _ in places]
        self._keys = [site.attribute for site in self._sites]
        self._hooks = [site.hooks for site in self._sites]
        self._is_reused = not any(spot.backward for spot in spots)  # backward() may come later
        self._idle: list[Opening] = []

    def holds(self) -> bool:
        """Whether the modules have the dictionaries of hooks that the sites know."""
        found = map(operator.getitem, self._attributes, self._keys)
        return all(map(operator.is_, found, self._hooks))

    def take(self) -> Opening:
        """Return an opening that no scope uses."""
        try:
            return self._idle.pop()
        except IndexError:
            opening = self.opening(self._make)
            opening.installs = installs_of(opening.steps)
            return opening

    def give_back(self, opening: Opening) -> None:
        """Let a later scope use what `take` gave; what it had as its own is its scope's alone."""
        if self._is_reused and opening.installs is not None:
            opening.own = ()
            self._idle.append(opening)
        else:
            opening.let_go()

    def opening(
        self, make: Callable[[str, int], Part], first: dict[Place, Steps] | None = None
    ) -> Opening:
        """Return an opening for one scope, whose parts come after the steps of `first`."""
        opening = Opening(steps=first or {})
        for at, (spot, site) in enumerate(zip(self.spots, self._sites, strict=False)):
            part = make(spot.name, at)
            part.opening, part.site = opening, site
            opening.parts.append(part)
            opening.put(site, Steps(backward=(part,)) if spot.backward else Steps((part,)))
        if self._stop is not None:
            opening.put(self._sites[-1], Steps(stop=opening.stop))
        return opening


def plan_for(plans: dict[Any, Plan], key: Hashable, make: Callable[[], Plan]) -> Plan:
    """Return the plan of last time for this key, or make one."""
    plan = plans.get(key)
    if plan is None or not plan.holds():
        if len(plans) >= _MOST_PLANS:
            plans.clear()
        plan = plans[key] = make()
    return plan


_MOST_PLANS = 64
