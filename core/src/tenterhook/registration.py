"""A hook that is registered on a model: where it stands, and how it is taken off."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from tenterhook._dispatch.frames import Place
from tenterhook._dispatch.sites import Site
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Hook
from tenterhook.scopes.selecting import Selecting, Selector, steps_of


@attrs.define(eq=False, repr=False)
class Registration:
    """A hook, where it stands, and the way to take it off: the handle of `_hook_registry`."""

    hook: Hook
    layer: str
    site: Site
    entries: tuple[Any, ...]
    """Each an `Entry`, or a selector at work that looks on."""
    _remove: "Callable[[Registration], Any]"
    priority: int = attrs.field(init=False, default=0)
    permanent: bool = attrs.field(init=False, default=False)
    selection: Selector | None = attrs.field(init=False, default=None)
    looking_on: "Sequence[Registration]" = attrs.field(init=False, default=())
    """What its selector has at the model, before all that is registered there."""
    selecting: Selecting | None = attrs.field(init=False, default=None)
    """The selector at work."""
    entered: Sequence[Place] = attrs.field(init=False, default=())
    """What else its selector entered."""
    looks_on: bool = attrs.field(init=False, default=False)
    """Whether it is a selector's look at the model, for the hook: nobody's registration."""
    hook_type: HookType = attrs.field(init=False)
    owner: Any = attrs.field(init=False, default=None)
    """The object that `attach` gave, so that it lives as long as its hooks."""
    due: object = attrs.field(init=False)
    """What it has been from when it was last switched on, `None` while it is off."""

    def __attrs_post_init__(self) -> None:
        self.hook_type = self.hook.hook_type
        self.due = object() if self.hook._enabled else None

    def begin(self, selecting: Selecting) -> None:
        """Have the selector choose and look on, as long as the hook is registered."""
        self.selecting, self.entries = selecting, tuple(map(selecting.change, self.entries))
        steps = steps_of([selecting])
        sites = [place for place in steps if isinstance(place, Site)]
        self.looking_on = [
            Registration(self.hook, "", s, (selecting,), self._remove) for s in sites
        ]
        self.entered = [place for place in steps if not isinstance(place, Site)]
        for place in self.entered:
            place.enter()
        for each in self.looking_on:
            each.looks_on, each.hook_type = True, HookType.FORWARD
            each.site.hold((each, *each.site.held))

    def end(self) -> None:
        """Take it all off the model."""
        for each in (self, *self.looking_on):
            each.site.hold(tuple(other for other in each.site.held if other is not each))
        for place in self.entered:
            place.leave()

    def unmatched(self, *, so_far: bool = False) -> list[str]:
        """Return a sentence that says where nothing was selected; see `Selecting`."""
        return [] if self.selecting is None else self.selecting.unmatched(so_far=so_far)

    def remove(self) -> None:
        """Unregister the hook; a second call does nothing."""
        self._remove(self)

    def refresh(self) -> None:
        """Take note that the hook was switched on or off."""
        self.due = None
        for each in (*self.looking_on, self):
            each.site.refresh()
        if self.hook._enabled:  # not before the site knows of it
            self.due = object()

    def __repr__(self) -> str:
        return f"Registration({self.hook!r})"
