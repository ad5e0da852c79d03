"""Who looks at a model, and what changes it, here and now: hooks and open scopes of this thread."""

from typing import Any

from tenterhook._dispatch.frames import visible_frame
from tenterhook.hook_type import HookType
from tenterhook.registry import HookRegistry


def capturing() -> bool:
    """Whether a capture of this thread or task is open, of whichever model."""
    return any(getattr(step, "records", False) for step in _scoped_steps())


def watching(registry: HookRegistry) -> bool:
    """Whether someone looks at the model here: a detector, or an open capture of this thread."""
    scoped = [step.hook for step in _scoped_steps() if hasattr(step, "hook")]
    hooks: list[Any] = [*registry.get_detectors(), *scoped]
    return capturing() or any(hook.detects and hook.enabled for hook in hooks)


def changes_active(registry: HookRegistry) -> list[str]:
    """Say, sorted, what changes the model's numbers here and now: controllers and replacements.

    Of hooks registered on the model, of enabled ones alone, and of scopes that are open for this
    thread or task; none while controllers are off.
    """
    return sorted(said for said, *_ in changing(registry))


def changing(registry: HookRegistry) -> list[tuple[str, Any]]:
    """Return the same, each with what is at work: it has a `layer`, a controller `hook`, and its
    `selection`, a selector or one at work; an output that is given for a layer has the first alone.

    Those of one layer are in the order in which they run.
    """
    steps = _scoped_steps()
    found = [(step.replaces, step) for step in steps if hasattr(step, "replaces")]
    at_work: list[Any] = [*registry._in_order(), *(s for s in steps if hasattr(s, "hook"))]
    for each in () if getattr(visible_frame(), "muted", False) else at_work:
        if (
            (hook := each.hook).controls
            and hook.hook_type is not HookType.BACKWARD
            and hook.enabled
        ):
            found.append((f"{type(hook).__name__} {hook.id} at {each.layer}", each))
    return found


def _scoped_steps() -> list[Any]:
    frame = visible_frame()
    return [] if frame is None else [step for s in frame.table.values() for step in s.forward]
