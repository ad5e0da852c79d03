"""A hook as a plain torch hook, for modules with nothing of tenterhook around them."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tenterhook._dispatch.entries import Args, Entry, Kwargs, entries_for
from tenterhook._dispatch.sites import run_after, run_before
from tenterhook.hook_type import HookType


def torch_hook(hook: Any) -> Callable[..., Any]:
    """Return the plain callable of `Hook.get_torch_hook`."""
    entries = entries_for(hook)

    def here() -> tuple[Entry, ...]:
        return entries if hook._enabled else ()

    def pre_forward(module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> Any:
        new = run_before(here(), module, args, kwargs or {})
        return new if new is None or kwargs is not None else new[0]

    def forward(module: nn.Module, args: Args, *rest: Any) -> Any:
        kwargs, output = rest if len(rest) == 2 else ({}, rest[0])
        sides = ((), here()) if hook.hook_type is HookType.BACKWARD else (here(), ())
        return run_after(*sides, module, args, kwargs, output)

    return pre_forward if hook.hook_type is HookType.PRE_FORWARD else forward
