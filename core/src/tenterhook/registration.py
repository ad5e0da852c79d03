"""A hook that is registered on a model: where it stands, and how it is taken off."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from torch import nn

from tenterhook._dispatch.entries import Args, Entry, Kwargs
from tenterhook._dispatch.frames import Place
from tenterhook._dispatch.sites import Site
from tenterhook.compiling import eager
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Hook
from tenterhook.scopes.selecting import Selecting, Selector, steps_of


class LooksOn(Entry):
    """A selector's look at the model's forwards, for a hook that is registered with it."""

    def __init__(self, hook: Hook, selecting: Any) -> None:
        super().__init__(hook, None)
        self.selecting = selecting

    @eager
    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Tell the selector of a forward that begins."""
        self.selecting.before(module, args, kwargs)

    @eager
    def after(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        """Tell the selector what it returned."""
        self.selecting.after(module, args, kwargs, output)


@attrs.define(eq=False, repr=False)
class Registration:
    """A hook, where it stands, and the way to take it off: the handle of `_hook_registry`."""

    hook: Hook
    layer: str
    site: Site
    entries: tuple[Entry, ...]
    _remove: "Callable[[Registration], Any]"
    priority: int = attrs.field(init=False, default=0)
    permanent: bool = attrs.field(init=False, default=False)
    selection: Selector | None = attrs.field(init=False, default=None)
    looking_on: "Sequence[Registration]" = attrs.field(init=False, default=())
    """What its selector has at the model, before all that is registered there."""
    entered: Sequence[Place] = attrs.field(init=False, default=())
    """What else its selector entered."""
    hook_type: HookType = attrs.field(init=False)
    owner: Any = attrs.field(init=False, default=None)
    """The object that `attach` gave, so that it lives as long as its hooks."""
    due: object = attrs.field(init=False)
    """What it has been from when it was last switched on, `None` while it is off."""

    def __attrs_post_init__(self) -> None:
        self.hook_type = self.hook.hook_type
        self.due = object() if self.hook._enabled else None

    def begin(self, selecting: Selecting) -> None:
        """Have the selector look on, as long as the hook is registered."""
        steps = steps_of([selecting])
        sites = [place for place in steps if isinstance(place, Site)]
        look = (LooksOn(self.hook, selecting),)
        self.looking_on = [Registration(self.hook, "", s, look, self._remove) for s in sites]
        for each in self.looking_on:
            each.hook_type = HookType.FORWARD
        self.entered = [place for place in steps if not isinstance(place, Site)]
        for place in self.entered:
            place.enter()
        for each in self.looking_on:
            each.site.hold((each, *each.site.held))

    def end(self) -> None:
        """Take it all off the model."""
        for each in (self, *self.looking_on):
            each.site.hold(tuple(other for other in each.site.held if other is not each))
        for place in self.entered:
            place.leave()

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
