"""A hook point: an identity module that names an activation, and the hooks that users put on it.

Forward hooks are torch's own, one for each `add_hook`. Backward hooks are not: torch's would skip
the forward hooks, not compose, and forbid edits in place. Ours run on the tensor that the point
returned, after all its forward hooks, for as long as they are attached.
"""

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook.compiling import hooks_changed
from tenterhook_hook_points._lens_scope import opening
from tenterhook_hook_points.conversion import TensorConversion
from tenterhook_hook_points.handles import Hook, LensHandle
from tenterhook_hook_points.names import checked_direction
from tenterhook_hook_points.pickling import pickles, warn_of_lost
from tenterhook_hook_points.running import (
    backward_runner,
    blame,
    forward_runner,
    scoped_runner,
    through,
)

lock = threading.RLock()
"""Held while a hook comes or goes: torch counts its handles without one."""

if hasattr(os, "register_at_fork"):  # the child has no other thread that would release it
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )


class HookPoint(nn.Module):
    """Returns its input, and lets hooks see and replace it.

    A hook is called as `hook(tensor, hook=point)`. What it returns takes the tensor's place; with
    `None` the tensor stays.
    """

    axes: tuple[str, ...] | None = None
    """What the axes of its tensor are, for selections: `("batch", "tokens", "heads", "features")`;
    `None` where features come last and tokens before them."""

    absent_key: float = 0.0
    """What stands for a key that is not there, where the last axis is `"keys"`."""

    name: str | None
    """The dotted name from the root, set by the root's `setup`."""

    ctx: dict[Any, Any]
    """Room for a hook's own state; one for all threads."""

    hook_conversion: TensorConversion | None
    """What turns the tensor into what hooks see, and back; set by `enable_reshape`."""

    backward_scale: float
    """What the `sum` of a gradient is multiplied by, as backward hooks see it."""

    def __init__(self) -> None:
        super().__init__()
        self.name = None
        self.ctx = {}
        self.backward_scale = 1.0
        self._fwd: list[LensHandle] = []
        self._bwd: list[LensHandle] = []
        self._gradient_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._watch: tuple[int, int] | None = None
        self.hook_conversion = None

    def forward(self, x: Any) -> Any:
        """Return `x` itself."""
        return x

    # --- attaching

    @property
    def fwd_hooks(self) -> list[LensHandle]:
        """The forward hooks that are attached, in the order they run."""
        return [handle for handle in tuple(self._fwd) if handle.hook.id in self._forward_hooks]

    @property
    def bwd_hooks(self) -> list[LensHandle]:
        """The backward hooks that are attached, in the order they run."""
        return [handle for handle in tuple(self._bwd) if handle.hook.id in self._gradient_hooks]

    def attached_hooks(self) -> list[str]:
        """Say how many hooks are attached in each direction, for `tenterhook.assert_clean`."""
        counts = (("forward", len(self.fwd_hooks)), ("backward", len(self.bwd_hooks)))
        return [f"{count} {kind} hook(s)" for kind, count in counts if count]

    def handles(self, dir: str = "both") -> list[LensHandle]:
        """Return what is attached in a direction, forward hooks first."""
        checked_direction(dir)
        forward = self.fwd_hooks if dir != "bwd" else []
        return forward + self.bwd_hooks if dir != "fwd" else forward

    def add_hook(
        self,
        hook: Hook,
        dir: str = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        alias_names: Iterable[str] | None = None,
    ) -> LensHandle:
        """Attach a hook, after the others or, with `prepend`, before them.

        With `dir="bwd"` it sees the gradient with respect to what the point returned, forward
        hooks included, and what it returns, also in a tuple of one, goes on to them. With
        `alias_names` it runs once for each, given an object that stands for the point under that
        name, on what the last run left.

        Raises `ValueError` for another `dir`, `TypeError` for what cannot be called. An exception
        of the hook's passes through as it is, with a note that names the point.
        """
        checked_direction(dir, both=False)
        if not callable(hook):
            raise TypeError(
                f"A hook is called as hook(tensor, hook=point), and a {type(hook).__name__} "
                "cannot be called."
            )
        aliases = (alias_names,) if isinstance(alias_names, str) else alias_names
        scope = opening()
        handle = LensHandle(None, is_permanent, level, hook)  # type: ignore[arg-type]
        handle._aliases = None if aliases is None else tuple(aliases)
        handle._scope = scope
        run = self._runner(handle, dir)
        with lock:
            if dir == "fwd":
                handle.hook = self.register_forward_hook(run, prepend=prepend)
                attached = self._fwd
            else:
                handle.hook = self.register_full_backward_hook(run, prepend=prepend)
                attached = self._bwd
            attached.insert(0 if prepend else len(attached), handle)
            if self._watch is not None:
                stand_last(self, ())
        if scope is not None:
            scope.removers.append(lambda: self._detach(handle))
        return handle

    def add_perma_hook(self, hook: Hook, dir: str = "fwd") -> LensHandle:
        """Attach a hook that stays when hooks are removed, unless permanent ones are asked for."""
        return self.add_hook(hook, dir=dir, is_permanent=True)

    def has_hooks(
        self, dir: str = "both", including_permanent: bool = True, level: int | None = None
    ) -> bool:
        """Whether a hook is attached in that direction, at that level if one is given."""
        return any(
            (including_permanent or not handle.is_permanent)
            and level in (None, handle.context_level)
            for handle in self.handles(dir)
        )

    def remove_hooks(
        self, dir: str = "fwd", including_permanent: bool = False, level: int | None = None
    ) -> None:
        """Take off the hooks in that direction: of one level, if given; permanent ones if asked.

        Hooks of a scope that another thread or task has open are its own, and stay.
        """
        for handle in self.handles(dir):
            scope = handle._scope
            if (
                (including_permanent or not handle.is_permanent)
                and level in (None, handle.context_level)
                and (scope is None or scope.is_seen())
            ):
                self._detach(handle)

    def clear_context(self) -> None:
        """Forget what hooks kept in `ctx`."""
        self.ctx = {}

    def enable_reshape(self, hook_conversion: TensorConversion | None = None) -> None:
        """Have hooks see the converted tensor, and revert what they return; `None` ends that.

        Raises `TypeError` unless it has `convert` and `revert`.
        """
        self.hook_conversion = hook_conversion

    def layer(self) -> int:
        """Return the block's number in the point's name: 3 in `blocks.3.attn.hook_q`.

        Raises `ValueError` where the point has no name or the name no number.
        """
        if self.name is None:
            raise ValueError("This hook point has no name yet; setup() of its root model gives it.")
        number = next((part for part in self.name.split(".") if part.isdecimal()), None)
        if number is None:
            raise ValueError(f"Hook point {self.name!r} is in no block: no part is a number.")
        return int(number)

    def extra_repr(self) -> str:
        """Return the name and how much is attached; nothing of the hooks themselves."""
        parts = [] if self.name is None else [f"name={self.name!r}"]
        counts = (len(self.fwd_hooks), "fwd"), (len(self.bwd_hooks), "bwd")
        return ", ".join(parts + [f"{count} {dir}" for count, dir in counts if count])

    def run_hook(self, handle: LensHandle, tensor: Any) -> Any:
        """Run an attached forward hook on a tensor; return what takes its place, or `None`."""
        try:
            return through(handle, self, tensor)
        except Exception as error:
            blame(error, handle, self)
            raise

    # --- torch's own doors, which `add_hook` goes through

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Register a hook `(module, grad_input, grad_output)`, as torch's method of this name does.

        Both are the gradient with respect to what the point returned, forward hooks included,
        as the hooks before left it; what the hook returns goes on. Unlike torch's it lives with
        edits in place, and one that was removed never runs.
        """
        handle = RemovableHandle(self._gradient_hooks)
        self._gradient_hooks[handle.id] = hook
        if prepend:
            self._gradient_hooks.move_to_end(handle.id, last=False)
        if self._watch is None or self._watch[1] not in self._forward_hooks:
            self._unwatch()
            self._watch = (
                super().register_forward_pre_hook(stand_last).id,
                super().register_forward_hook(_watch_gradient).id,
            )
        return handle

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "hook_conversion":
            if value is not None and not isinstance(value, TensorConversion):
                raise TypeError(
                    f"A {type(value).__name__} is no conversion: it needs convert(tensor) and "
                    "revert(tensor). BaseTensorConversion is a class to start from."
                )
            vars(self)[name] = value  # no submodule of the point, where it is a module
            for handle in tuple(self._fwd):
                if handle._reshape is not None:
                    handle._reshape(value)
            return
        super().__setattr__(name, value)

    def _detach(self, handle: LensHandle) -> None:
        """Take a hook off, if it is there."""
        with lock:
            handle.hook.remove()
            for attached in (self._fwd, self._bwd):
                if handle in attached:
                    attached.remove(handle)
            if self._watch is not None and not self._gradient_hooks:
                self._unwatch()

    def _unwatch(self) -> None:
        """Take off what looks for gradients."""
        watch, self._watch = self._watch, None
        if watch is not None:
            self._forward_pre_hooks.pop(watch[0], None)
            self._forward_hooks.pop(watch[1], None)

    def _runner(self, handle: LensHandle, dir: str) -> Callable[..., Any]:
        """Return the torch hook that runs a user's hook."""
        hooks_changed(self)
        if dir == "bwd":
            return backward_runner(handle)
        if handle._scope is not None and handle._scope.owner is not None:
            return scoped_runner(handle)
        return forward_runner(handle, self.hook_conversion)

    def _standing_for(self, name: str) -> "HookPoint":
        """Return an object that stands for this point under another name."""
        stand = type(self).__new__(type(self))
        vars(stand).update(vars(self), name=name)
        return stand

    # --- copies

    def __deepcopy__(self, memo: dict[int, Any]) -> "HookPoint":
        """Copy the point with its hooks, which get the copy; not those of open scopes.

        The hooks themselves are shared, but for methods of modules that are copied too.
        """
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        handles_of = {"_fwd": self.fwd_hooks, "_bwd": self.bwd_hooks}
        rest = {key: value for key, value in vars(self).items() if key not in handles_of}
        for hooks, gone in (("_forward_hooks", "_fwd"), ("_gradient_hooks", "_bwd")):
            scoped = {handle.hook.id for handle in handles_of[gone] if handle._scope is not None}
            unscoped = {key: value for key, value in rest[hooks].items() if key not in scoped}
            rest[hooks] = OrderedDict(unscoped)
        vars(new).update(copy.deepcopy(rest, memo))
        for hooks in ("_forward_hooks", "_gradient_hooks"):
            memo[id(vars(self)[hooks])] = vars(new)[hooks]  # what the torch handles refer to
        for key, handles in handles_of.items():
            mine = [handle for handle in handles if handle._scope is None]
            vars(new)[key] = [new._take(handle, key, memo) for handle in mine]
        if not new._gradient_hooks:
            new._unwatch()
        return new

    def _take(self, handle: LensHandle, where: str, memo: dict[int, Any]) -> LensHandle:
        """Return the handle of a copied point for a hook that came along."""
        hook = handle.user_hook
        if isinstance(hook, MethodType) and id(hook.__self__) in memo:
            hook = MethodType(hook.__func__, memo[id(hook.__self__)])
        torch_handle = copy.deepcopy(handle.hook, memo)
        taken = LensHandle(torch_handle, handle.is_permanent, handle.context_level, hook)
        taken._aliases = handle._aliases
        hooks = self._forward_hooks if where == "_fwd" else self._gradient_hooks
        hooks[torch_handle.id] = self._runner(taken, where[1:])
        return taken

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: the point, and those of its hooks that can be pickled.

        Not those of open scopes. Warns of the others, `HookWarning`.
        """
        watch = self._watch or ()
        ours = {handle.hook.id for handle in (*self._fwd, *self._bwd)}.union(watch)
        state = {**vars(self), "_fwd": [], "_bwd": [], "_watch": None}
        kept: list[tuple[Any, ...]] = []
        lost = []
        for dir in ("fwd", "bwd"):
            for h in self.handles(dir):
                settings = h.is_permanent, h.context_level, False, h._aliases
                if h._scope is None and pickles(h.user_hook):
                    kept.append((h.user_hook, dir, *settings))
                elif h._scope is None:
                    lost.append(h.user_hook)
        warn_of_lost(self.name, lost)
        state["_kept"] = kept
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_gradient_hooks"):
            theirs = {key: value for key, value in state[hooks].items() if key not in ours}
            state[hooks] = OrderedDict(theirs)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("_kept", ())
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        rest, self._gradient_hooks = self._gradient_hooks, OrderedDict()
        for hook in rest.values():
            self.register_full_backward_hook(hook)
        for given in kept:
            self.add_hook(*given)


# --- where backward hooks run


def stand_last(point: HookPoint, args: Any) -> None:
    """Before the point runs: have what looks for gradients come after every forward hook."""
    hooks, watch = point._forward_hooks, point._watch
    if not point._gradient_hooks:  # all were taken off by their torch handles
        with lock:
            # Looked at again: another thread may have attached one since, which would never run.
            if not point._gradient_hooks:
                point._unwatch()
    elif watch is None or torch.compiler.is_compiling():
        return
    elif watch[1] in hooks and next(reversed(hooks)) != watch[1]:
        hooks.move_to_end(watch[1])  # type: ignore[attr-defined]  # an OrderedDict


def _backward_runs(point: HookPoint) -> list[tuple[int, Callable[..., Any]]]:
    """Return the backward hooks that this thread or task sees, with their keys, in order."""
    others = {
        handle.hook.id
        for handle in tuple(point._bwd)
        if handle._scope is not None and not handle._scope.is_seen()
    }
    return [(key, run) for key, run in list(point._gradient_hooks.items()) if key not in others]


def _watch_gradient(point: HookPoint, args: Any, output: Any) -> Any:
    """After the point ran: have the backward hooks run when the gradient of this output is known.

    Returns a copy, for the tensor itself may be used elsewhere, and a view would lose the hooks to
    an edit in place.
    """
    hooks = point._gradient_hooks
    if not isinstance(output, Tensor) or not output.requires_grad or not torch.is_grad_enabled():
        return None
    if torch.compiler.is_compiling():
        runs = _backward_runs(point)
    else:
        with lock:  # a hook that another thread is attaching has torch's handle before its own
            runs = _backward_runs(point)
    if not runs:
        return None
    own = output.clone()

    def on_gradient(grad: Tensor) -> Tensor | None:
        # The same tensor may be the gradient of others, so hooks that write get one to write to.
        new = mine = grad.clone()
        version = mine._version
        for key, run in runs:
            if key in hooks:  # one that was taken off since runs no more
                returned = run(point, (new,), (new,))
                if returned is not None:
                    new = returned[0] if isinstance(returned, tuple | list) else returned
        return None if new is mine and mine._version == version else new

    own.register_hook(on_gradient)  # type: ignore[no-untyped-call]
    return own
