"""The hooks of a plain `run_with_cache`, made once for a set of points and used again.

Making and registering a hook costs more than running it; putting one back that is made already is
one dictionary operation. What is on the points meanwhile is what `add_hook` would have put there.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook_hook_points._scopes import Scope, here
from tenterhook_hook_points.caching import detached
from tenterhook_hook_points.point import HookPoint, LensHandle, lock, stand_last

_REGISTER, _ADD = nn.Module.register_forward_hook, HookPoint.add_hook


class Kit:
    """A hook for each of some points, which keeps a copy of what it sees in `cache`."""

    def __init__(self, names: Sequence[str], points: Sequence[HookPoint]) -> None:
        self.points = list(points)
        self.scope = Scope(None, 0)
        self.cache: dict[str, Tensor] = {}
        self._level: int | None = None
        self._puts = [self._put(*each) for each in zip(names, points, strict=True)]

    def _put(self, name: str, point: HookPoint) -> tuple[HookPoint, int, Any, LensHandle]:
        scope = self.scope

        def keep(tensor: Tensor, hook: HookPoint) -> None:
            self.cache[name] = detached(name, tensor).clone()

        def run(module: HookPoint, args: Any, output: Any) -> None:
            if here() is scope.owner:
                if type(output) is Tensor and module.hook_conversion is None:
                    self.cache[name] = output.detach().clone()
                else:
                    module.run_hook(handle, output)

        handle = LensHandle(RemovableHandle(point._forward_hooks), user_hook=keep)
        handle._scope = scope
        return point, handle.hook.id, run, handle

    def open(self, cache: dict[str, Tensor], level: int) -> None:
        """Put the hooks on, for this thread or task alone."""
        self.cache, self.scope.owner = cache, here()
        self.scope.opener, self.scope.level = self.scope.owner, level
        if level != self._level:
            self._level = level
            for _, _, _, handle in self._puts:
                handle.context_level = level
        for point, key, run, handle in self._puts:
            point._fwd.append(handle)
            point._forward_hooks[key] = run
            if point._watch is not None:
                stand_last(point, ())

    def close(self) -> None:
        """Take the hooks off, those that are still there."""
        for point, key, _, handle in self._puts:
            point._forward_hooks.pop(key, None)
            held = point._fwd
            if held and held[-1] is handle:  # nearly always: no other came and stayed
                held.pop()
            elif handle in held:
                held.remove(handle)
        self.cache, self.scope.owner = {}, None


_SETS = 16
"""For how many sets of points kits are kept."""


class Kits:
    """The kits of one model that no open run uses. A copy of the model starts with none."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, ...], list[Kit]] = {}

    def take(self, names: Sequence[str], points: Sequence[HookPoint]) -> Kit | None:
        """Return a kit for these points; `None` where somebody watches how hooks are put on."""
        if HookPoint.register_forward_hook is not _REGISTER or HookPoint.add_hook is not _ADD:
            return None
        for point in points:
            own = point.__dict__
            if type(point) is not HookPoint or "register_forward_hook" in own or "add_hook" in own:
                return None
        try:
            kit = self._idle[tuple(names)].pop()
        except LookupError:
            kit = None
        if kit is None or kit.points != points:
            with lock:
                kit = Kit(names, points)
        return kit

    def give_back(self, names: Sequence[str], kit: Kit) -> None:
        """Let a later run use the kit."""
        if len(self._idle) > _SETS:
            self._idle = {}
        self._idle.setdefault(tuple(names), []).append(kit)

    def __reduce__(self) -> Any:
        return Kits, ()
