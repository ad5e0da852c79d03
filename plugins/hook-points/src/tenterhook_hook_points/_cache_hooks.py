"""The hooks of a scope, made once for a set of points and used again by the scopes that follow.

Making and registering a hook costs more than running it. To attach one that is made already is one
dictionary operation. While they are attached the points look as if `add_hook` had attached them.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook_hook_points._lens_scope import LensScope, here
from tenterhook_hook_points.caching import detached
from tenterhook_hook_points.handles import Hook, LensHandle
from tenterhook_hook_points.point import HookPoint, lock, stand_last
from tenterhook_hook_points.running import scoped_runner

_REGISTER, _ADD = nn.Module.register_forward_hook, HookPoint.add_hook


class ReadyHooks:
    """A forward hook for each of some points, as `add_hook` makes one."""

    def __init__(self, names: Sequence[str], points: Sequence[HookPoint]) -> None:
        self.points = list(points)
        self.scope = LensScope(None, 0)
        self._level: int | None = None
        self._attachments = [self._attachment(*each) for each in zip(names, points, strict=True)]

    def _attachment(self, name: str, point: HookPoint) -> tuple[HookPoint, int, Any, LensHandle]:
        handle = LensHandle(RemovableHandle(point._forward_hooks))
        handle._scope = self.scope
        return point, handle.hook.id, self._runner(name, handle), handle

    def _runner(self, name: str, handle: LensHandle) -> Callable[..., Any]:
        """Return what torch calls."""
        raise AssertionError("abstract")

    def open(self, level: int) -> None:
        """Attach the hooks, for this thread or task alone."""
        self.scope.owner = self.scope.opener = here()
        self.scope.level = level
        if level != self._level:
            self._level = level
            for _, _, _, handle in self._attachments:
                handle.context_level = level
        for point, key, run, handle in self._attachments:
            point._fwd.append(handle)
            point._forward_hooks[key] = run
            if point._watch is not None:
                stand_last(point, ())

    def close(self) -> None:
        """Detach the hooks, those that are still there."""
        for point, key, _, handle in self._attachments:
            point._forward_hooks.pop(key, None)
            attached = point._fwd
            if attached and attached[-1] is handle:  # nearly always: no other came and stayed
                attached.pop()
            elif handle in attached:
                attached.remove(handle)
        self.scope.owner = None
        self.scope.close()


class CacheHooks(ReadyHooks):
    """Each writes a copy of what it sees to `cache`."""

    cache: dict[str, Tensor]

    def _runner(self, name: str, handle: LensHandle) -> Callable[..., Any]:
        scope = self.scope

        def keep(tensor: Tensor, hook: HookPoint) -> None:
            self.cache[name] = detached(name, tensor).clone()

        def run(module: HookPoint, args: Any, output: Any) -> None:
            if here() is scope.owner:
                if type(output) is Tensor and module.hook_conversion is None:
                    self.cache[name] = output.detach().clone()
                else:
                    module.run_hook(handle, output)

        handle.user_hook = keep
        return run

    def close(self) -> None:
        """Detach the hooks, and let the cache go."""
        super().close()
        self.cache = {}


class UserHooks(ReadyHooks):
    """Each runs a hook of the user's, another in each scope."""

    def _runner(self, name: str, handle: LensHandle) -> Callable[..., Any]:
        return scoped_runner(handle)

    def take(self, hooks: Sequence[Hook]) -> None:
        """Have these be the hooks, one for each point."""
        for (*_, handle), hook in zip(self._attachments, hooks, strict=True):
            handle.user_hook = hook

    def close(self) -> None:
        """Detach the hooks, and let the user's go."""
        super().close()
        for *_, handle in self._attachments:
            handle.user_hook = None


R = TypeVar("R", bound=ReadyHooks)

_SETS = 16
"""For how many sets of points hooks stay ready."""


class CacheHooksPool:
    """The hooks of one model that no open scope uses. A copy of the model starts with none."""

    def __init__(self) -> None:
        self._idle: dict[tuple[type[ReadyHooks], tuple[str, ...]], list[Any]] = {}

    def take(self, kind: type[R], names: Sequence[str], points: Sequence[HookPoint]) -> R | None:
        """Return hooks of a kind for these points.

        Returns `None` where `add_hook` or torch's method was replaced, or a point is a subclass's:
        then each hook has to be attached by the method, which may do something of its own.
        """
        if HookPoint.register_forward_hook is not _REGISTER or HookPoint.add_hook is not _ADD:
            return None
        for point in points:
            own = point.__dict__
            if type(point) is not HookPoint or "register_forward_hook" in own or "add_hook" in own:
                return None
        try:
            hooks: R | None = self._idle[kind, tuple(names)].pop()
        except LookupError:
            hooks = None
        if hooks is None or hooks.points != points:
            with lock:
                hooks = kind(names, points)
        return hooks

    def give_back(self, names: Sequence[str], hooks: ReadyHooks) -> None:
        """Let a later scope use the hooks."""
        if len(self._idle) > _SETS:
            self._idle = {}
        self._idle.setdefault((type(hooks), tuple(names)), []).append(hooks)

    def __reduce__(self) -> Any:
        return CacheHooksPool, ()
