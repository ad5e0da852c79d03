"""A hook that is registered on a model: where it stands, and how it is taken off."""

from collections.abc import Callable
from typing import Any

import attrs

from tenterhook._dispatch.entries import Entry
from tenterhook._dispatch.sites import Site
from tenterhook.hook_type import HookType
from tenterhook.hooks._types import Hook


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
    hook_type: HookType = attrs.field(init=False)
    owner: Any = attrs.field(init=False, default=None)
    """The object that `attach` gave, so that it lives as long as its hooks."""
    due: object = attrs.field(init=False)
    """What it has been from when it was last switched on, `None` while it is off."""

    def __attrs_post_init__(self) -> None:
        self.hook_type = self.hook.hook_type
        self.due = object() if self.hook._enabled else None

    def remove(self) -> None:
        """Unregister the hook; a second call does nothing."""
        self._remove(self)

    def refresh(self) -> None:
        """Take note that the hook was switched on or off."""
        self.due = None
        self.site.refresh()
        if self.hook._enabled:  # not before the site knows of it
            self.due = object()

    def __repr__(self) -> str:
        return f"Registration({self.hook!r})"
