"""What is attached to the hook points of a model."""

from tenterhook_hook_points.handles import LensHandle
from tenterhook_hook_points.names import NamesFilter, checked_direction, chosen
from tenterhook_hook_points.point import HookPoint


class HookIntrospectionMixin:
    """`list_hooks`, for any class with a `hook_dict`, an attribute or a property."""

    hook_dict: dict[str, HookPoint]

    def list_hooks(
        self,
        name_filter: NamesFilter = None,
        dir: str = "both",
        including_permanent: bool = True,
    ) -> dict[str, list[LensHandle]]:
        """Return what is attached, by the name of its point, in the order it runs.

        Forward hooks come before backward hooks; points with nothing attached are left out. Hooks
        of every thread's open scopes are among them.

        Raises `UnknownHookPoint`; `ValueError` for a `dir` but `fwd`, `bwd` and `both`.
        """
        checked_direction(dir)
        points = self.hook_dict
        found = {
            name: [
                handle
                for handle in points[name].handles(dir)
                if including_permanent or not handle.is_permanent
            ]
            for name in chosen(name_filter, points)
        }
        return {name: handles for name, handles in found.items() if handles}
