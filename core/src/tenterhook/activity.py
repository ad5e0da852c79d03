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


def changing(registry: HookRegistry) -> list[Any]:
    """Return what changes the model's numbers here and now: controllers and replacements.

    Of hooks registered on the model, of enabled ones alone, and of scopes that are open for this
    thread or task; none while controllers are off. Those of one layer are in the order they run.
    Each has a `layer`; a controller its `hook`, and a `selection`, a selector or one at work; an
    output that is given for a layer `replaces`, a phrase.
    """
    steps = _scoped_steps()
    found = [step for step in steps if hasattr(step, "replaces")]
    if not getattr(visible_frame(), "muted", False):
        found += [each for each in (*registry._in_order(), *steps) if _controls(each)]
    return found


def _controls(step: Any) -> bool:
    hook: Any = getattr(step, "hook", None)
    is_forward = getattr(hook, "hook_type", HookType.BACKWARD) is not HookType.BACKWARD
    return is_forward and hook.controls and hook.enabled


def _scoped_steps() -> list[Any]:
    frame = visible_frame()
    return [] if frame is None else [step for s in frame.table.values() for step in s.forward]
