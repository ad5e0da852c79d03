"""Points: places where no module's side is, offered by plugins and named as layers are.

What a head's values sum up to lies in the middle of a forward: no module takes or returns it. A
plugin that has a way to such a place makes a `Point` for it, and while the point is used calls it
with the tensor there and goes on with what it returns. To all else here a point is a module like
any other, so captures, hooks and selections stand at it as they do at layers.

What happens when a name is asked for that is no module's, `z.3`:

1. Extensions are named as points begin: that of the name `z` is asked for the points of this model,
   once. That may take long, for a plugin may run the model to find out.
2. A scope opens, or a hook is registered: the first torch hook comes to stand on the point. It
   tells the plugin, which does what it must to be called (`in_use`).
3. A forward runs. The plugin may ask the point what runs in this thread or task (`here`).
4. The last torch hook goes, and the plugin takes back what it did.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import attrs
from torch import Tensor, nn

from tenterhook._dispatch.frames import steps_here, visible_frame
from tenterhook._dispatch.sites import Site, sites_of
from tenterhook.one_line import error_line, shown, type_name
from tenterhook.plugins.problems import PluginWarning
from tenterhook.plugins.registered import Registered


class _TorchHooks(OrderedDict[int, Any]):
    """Torch's dictionary of hooks, which tells when the first has come and the last has gone."""

    changed: Callable[[], None]

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.changed()

    def __delitem__(self, key: int) -> None:
        super().__delitem__(key)
        self.changed()

    pop = MutableMapping.pop  # type: ignore[assignment]  # by `del`


class Point(nn.Module):
    """A place inside a model, which is called with the tensor there and returns what goes on.

    It belongs to no model: whoever made it calls it, with one tensor, in the middle of a forward.
    """

    axes: tuple[str, ...] | None = None
    """What the axes of its tensor are, so that selections find them: `"batch"` first, and
    `"tokens"`, `"heads"`, `"features"`, `"keys"`, in order. Any module may have such an attribute.
    """

    def __init__(self, name: str, in_use: Callable[[bool], None] = lambda used: None) -> None:
        """`in_use(True)` is called when the first torch hook comes, `in_use(False)` with the last.

        It is called under core's lock, so it is to be quick; by whichever thread opens a scope.
        """
        super().__init__()
        self.name, self.in_use, self.used = name, in_use, False
        for each in ("_forward_hooks", "_forward_pre_hooks"):
            hooks = vars(self)[each] = _TorchHooks()
            hooks.changed = self._changed

    def forward(self, tensor: Tensor) -> Tensor:
        """Return the tensor; hooks make of it what goes on."""
        return tensor

    def _changed(self) -> None:
        used = bool(self._forward_hooks or self._forward_pre_hooks)
        if used is not self.used:
            self.used = used
            self.in_use(used)

    def here(self) -> list[Any]:
        """Return what runs at it in a call of this thread or task: hooks, and captures' recorders.

        What ends the forward here, too; not others' torch hooks.
        """
        frame = visible_frame()
        found: tuple[Any, ...] = ()
        stops = []
        for place in sites_of(self) if self.used else ():
            found += place.forward + place.backward if isinstance(place, Site) else ()
            steps = steps_here(place)
            found += steps.forward + steps.backward
            stops += [steps.stop] if steps.stop else []
        return [*(found if frame is None else frame.running(found)), *stops]


@attrs.frozen(kw_only=True, eq=False)
class Points:
    """The points of one model, by name, and why others are not offered."""

    layers: Mapping[str, Point | str]
    """What stands at each name: a point, or the dotted name of the layer that returns it."""
    aliases: Mapping[str, str] = attrs.field(factory=dict)
    """Other names of them, not listed: `model.layers.0.self_attn:attention` for `pattern.0`. The
    extension that is asked is named as the alias ends, after its colon."""
    refused: Mapping[str, str] = attrs.field(factory=dict)
    """For names that one might ask for, the reason why they are not offered: a sentence."""
    also: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    """What other libraries call the places: by library, their names by the names here."""


def ask(registered: Registered, module: nn.Module) -> Any:
    """Return the names that an extension gives in a model: its `Points`, or `StandardNames`.

    `None` where it knows none; with a `PluginWarning` where it fails, or names what is not there.
    """
    try:
        found = registered.load()(module)
        layers = {} if found is None else getattr(found, "layers", None)
        if not isinstance(layers, Mapping):
            raise TypeError(f"it returned a {type_name(found)}, which has no names of layers")
        known = {name for name, _ in module.named_modules(remove_duplicate=False)}
        for at in (at for at in layers.values() if isinstance(at, str) and at not in known):
            raise LookupError(f"it names {shown(at)}, not in this {type_name(module)}")
        return found
    except (Exception, SystemExit) as error:  # noqa: BLE001 - shown, and others may know the model
        what = f"{registered.kind.replace('_', ' ').capitalize()} {registered.name!r}"
        text = f"{what} of {registered.origin} failed: {error_line(error)}"
        warnings.warn(text, PluginWarning, stacklevel=3)
        return None
