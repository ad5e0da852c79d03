"""What hooks want of a point in one call: nothing, a look, or a part in the computation."""

from typing import Any

from tenterhook.points import Point


def wanted(point: Point) -> bool:
    """Whether anything runs at a point in this thread or task."""
    return point.used and (bool(point.here()) or _others(point))


def changes(point: Point) -> bool:
    """Whether what runs here may change the tensor, or needs it in the graph of the output.

    A capture that detaches and a detector do not; a gradient's hook does, and whatever is unknown.
    """
    return point.used and (any(map(_changes, point.here())) or _others(point))


def _changes(entry: Any) -> bool:
    if getattr(entry, "records", False):
        return not entry.form.detach
    hook = getattr(entry, "hook", None)
    return hook is None or hook.controls or hook.hook_type == "backward"


def _others(point: Point) -> bool:
    """Whether a torch hook stands there that is no hook of tenterhook's."""
    hooks = (*point._forward_hooks.values(), *point._forward_pre_hooks.values())
    return any(not str(getattr(each, "__module__", "")).startswith("tenterhook.") for each in hooks)
