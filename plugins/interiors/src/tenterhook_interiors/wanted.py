"""What hooks want of a point in one call: nothing, a look, or a part in the computation."""

from typing import Any

from torch import Tensor

from tenterhook.points import Point


def wanted(point: Point) -> bool:
    """Whether anything runs at a point in this thread or task."""
    return point.used and (bool(point.here()) or _others(point))


def changes(point: Point) -> bool:
    """Whether what runs here may change the tensor, or needs it in the graph of the output.

    A capture that detaches and a detector do not; a gradient's hook does, and whatever is unknown.
    """
    return point.used and (any(map(_changes, point.here())) or _others(point))


def passed(point: Point, given: Any) -> Any:
    """Return what a point makes of a tensor: of its shape and dtype, so that nothing else changes.

    Scores and patterns may be broadcast to it. Raises `ValueError` for what has another shape.
    """
    new = point(given)
    if new is given or not isinstance(new, Tensor) or not isinstance(given, Tensor):
        return new
    if new.shape != given.shape:
        is_broadcast = (point.axes or ())[-1:] == ("keys",)
        try:
            new = new.expand(given.shape if is_broadcast else new.shape)
        except RuntimeError:
            is_broadcast = False
        if not is_broadcast:
            raise ValueError(
                f"What takes the place of {point.name} has shape {tuple(new.shape)}, not "
                f"{tuple(given.shape)}. Return a tensor of the shape that the hook is given."
            )
    return new if new.dtype is given.dtype else new.to(given.dtype)


def _changes(entry: Any) -> bool:
    if getattr(entry, "records", False):
        return not entry.form.detach
    hook = getattr(entry, "hook", None)
    return hook is None or hook.controls or hook.hook_type == "backward"


def _others(point: Point) -> bool:
    """Whether a torch hook stands there that is no hook of tenterhook's."""
    hooks = (*point._forward_hooks.values(), *point._forward_pre_hooks.values())
    return any(not str(getattr(each, "__module__", "")).startswith("tenterhook.") for each in hooks)
