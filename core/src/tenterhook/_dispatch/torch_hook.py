"""A hook as a plain torch hook, for modules with nothing of tenterhook around them."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tenterhook._dispatch.entries import Args, Kwargs, entry_for
from tenterhook._dispatch.gradients import watch_gradient
from tenterhook.hook_type import HookType


def torch_hook(hook: Any) -> Callable[..., Any]:
    """Return the plain callable of `Hook.get_torch_hook`."""
    entry = entry_for(hook, hook.layer_signature)

    def pre_forward(module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> Any:
        entry.layer = hook.layer_signature
        new = entry.before(module, args, kwargs or {}) if hook._enabled else None
        return new if new is None or kwargs is not None else new[0]

    def forward(module: nn.Module, args: Args, *rest: Any) -> Any:
        entry.layer = hook.layer_signature
        kwargs, output = rest if len(rest) == 2 else ({}, rest[0])
        if not hook._enabled:
            return None
        if hook.hook_type is HookType.BACKWARD:
            return watch_gradient((entry,), module, args, kwargs, output)
        return entry.after(module, args, kwargs, output)

    return pre_forward if hook.hook_type is HookType.PRE_FORWARD else forward
