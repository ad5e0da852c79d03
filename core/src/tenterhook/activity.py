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
    hooks: list[Any] = [*registry.get_detectors(), *_scoped_hooks()]
    return capturing() or any(hook.detects and hook.enabled for hook in hooks)


def changes_active(registry: HookRegistry) -> list[str]:
    """Say, sorted, what changes the model's numbers here and now: controllers and replacements.

    Of hooks registered on the model, of enabled ones alone, and of scopes that are open for this
    thread or task; none while controllers are off.
    """
    changes = (getattr(step, "change", None) for step in _scoped_steps())
    found = [change for change in changes if change is not None]
    frame = visible_frame()
    if frame is None or not frame.muted:
        hooks: list[Any] = [*registry.get_controllers(), *_scoped_hooks()]
        found += [
            f"{type(hook).__name__} {hook.id} at {hook.layer_signature}"
            for hook in hooks
            if hook.controls and hook.hook_type is not HookType.BACKWARD and hook.enabled
        ]
    return sorted(found)


def _scoped_steps() -> list[Any]:
    frame = visible_frame()
    return [] if frame is None else [step for s in frame.table.values() for step in s.forward]


def _scoped_hooks() -> list[Any]:
    return [step.hook for step in _scoped_steps() if getattr(step, "hook", None) is not None]
