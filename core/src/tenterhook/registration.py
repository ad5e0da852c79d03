"""A hook that is registered on a model: where it stands, and how it is taken off."""

from collections.abc import Callable
from typing import Any

from tenterhook._dispatch.entries import Entry
from tenterhook._dispatch.sites import Site
from tenterhook.hooks._types import Hook


class Registration:
    """A hook, where it stands, and the way to take it off: the handle of `_hook_registry`."""

    __slots__ = (
        "_remove",
        "due",
        "entry",
        "hook",
        "hook_type",
        "layer",
        "owner",
        "permanent",
        "priority",
        "site",
    )

    def __init__(
        self,
        hook: Hook,
        layer: str,
        site: Site,
        entry: Entry,
        *,
        priority: int,
        permanent: bool,
        remove: "Callable[[Registration], Any]",
    ) -> None:
        self.hook, self.layer, self.site, self.entry = hook, layer, site, entry
        self.hook_type = hook.hook_type
        self.priority, self.permanent = priority, permanent
        self._remove = remove
        self.owner: Any = None
        """The object that `attach` gave, so that it lives as long as its hooks."""
        self.due = object() if hook._enabled else None
        """What it has been from when it was last switched on, `None` while it is off."""

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
