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
    hooks: list[Any] = [*registry.get_detectors(), *(s.hook for s in _scoped_steps() if _hooks(s))]
    return capturing() or any(hook.detects and hook.enabled for hook in hooks)


def changes_active(registry: HookRegistry) -> list[str]:
    """Say, sorted, what changes the model's numbers here and now: controllers and replacements.

    Of hooks registered on the model, of enabled ones alone, and of scopes that are open for this
    thread or task; none while controllers are off.
    """
    return sorted(said for said, *_ in changing(registry))


def changing(registry: HookRegistry) -> list[tuple[str, str, Any, Any]]:
    """Return the same, each with its layer, its controller and selector, or `None`.

    Those of one layer are in the order in which they run.
    """
    steps, found = _scoped_steps(), list[Any]()
    found += [(s.replaces, s.layer, None, None) for s in steps if hasattr(s, "replaces")]
    frame = visible_frame()
    if frame is None or not frame.muted:
        hooks = [(each.layer, each.hook, each.selection) for each in registry._in_order()]
        hooks += [(step.layer, step.hook, step.selector) for step in steps if _hooks(step)]
        for layer, hook, selector in hooks:
            if hook.controls and hook.hook_type is not HookType.BACKWARD and hook.enabled:
                found.append((f"{type(hook).__name__} {hook.id} at {layer}", layer, hook, selector))
    return found


def _scoped_steps() -> list[Any]:
    frame = visible_frame()
    return [] if frame is None else [step for s in frame.table.values() for step in s.forward]


def _hooks(step: Any) -> bool:
    return getattr(step, "hook", None) is not None
