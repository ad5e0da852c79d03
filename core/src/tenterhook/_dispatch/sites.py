"""How hooks reach a module: one torch hook per module and side, which runs ours in order.

A *site* is a module and a side of its forward. What stands there is a tuple of entries, rebuilt
when a hook comes, goes, or is switched, and read without a lock. A site with nothing to run has
no torch hook, so an idle model runs at its own speed. Other people's torch hooks are never
touched.
"""

import itertools
import sys
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tenterhook._dispatch.entries import Args, Entry, Kwargs, entry_for, watch_gradient
from tenterhook._dispatch.frames import (
    NO_STEPS,
    Frame,
    Steps,
    frame_of_task,
    lock,
    of_thread,
    show_frame,
    visible_frame,
)
from tenterhook.hooks._types import Hook, HookType

Side = Literal["before", "after"]


class Place:
    """One side of one module, where open scopes may have something to run."""

    __slots__ = ("held", "scopes")

    def __init__(self) -> None:
        self.held: tuple[Registration, ...] = ()
        self.scopes = 0

    @property
    def installed(self) -> bool:
        """Whether something of ours is on the module now."""
        raise AssertionError("abstract")

    def enter(self) -> None:
        """Count one more open scope that looks here; the lock is held."""
        raise AssertionError("abstract")

    def leave(self) -> None:
        """Count one open scope less; the lock is held."""
        raise AssertionError("abstract")


class Site(Place):
    """One side of one module's forward, and the torch hook there while something is to run."""

    __slots__ = ("backward", "forward", "hooks", "is_after", "key")

    def __init__(self, module: nn.Module, side: Side) -> None:
        super().__init__()
        self.is_after = side == "after"
        self.forward: tuple[Entry, ...] = ()
        self.backward: tuple[Entry, ...] = ()
        # torch's own dictionaries, so coming and going is one dictionary operation. No id that
        # torch gives is negative, so ours meet none, in no process that loads the module either.
        # The flag stays: a thread in the middle of a call looks it up after we have gone.
        self.key = -next(_keys)
        if side == "before":
            self.hooks, flags = module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs
        else:
            self.hooks, flags = module._forward_hooks, module._forward_hooks_with_kwargs
        flags[self.key] = True

    @property
    def installed(self) -> bool:
        """Whether our torch hook is on the module now."""
        return self.key in self.hooks

    def hold(self, registrations: "tuple[Registration, ...]") -> None:
        """Have these, in this order, and no others, registered here."""
        with lock:
            self.held = registrations
            self.refresh()

    def refresh(self) -> None:
        """Rebuild what runs; put the torch hook on the module, change it, or take it off."""
        with lock:
            tell_compiler()
            entries = [held.entry for held in self.held if held.hook._enabled]
            forward: list[Entry] = []
            backward: list[Entry] = []
            for entry in entries:
                group = backward if entry.hook.hook_type is HookType.BACKWARD else forward
                group.append(entry)
            self.forward, self.backward = tuple(forward), tuple(backward)
            dispatcher = self._dispatcher()
            if dispatcher is not None:
                self.hooks[self.key] = dispatcher
            elif self.key in self.hooks:
                last = next(reversed(self.hooks)) == self.key
                if self.held and not last:  # disabled: keep the place before other people's hooks
                    self.hooks[self.key] = self._several()
                else:
                    del self.hooks[self.key]

    def enter(self) -> None:
        """Count one more open scope that looks here; the lock is held."""
        self.scopes += 1
        if self.scopes == 1 and self.held:
            self.refresh()
        elif self.hooks.get(self.key) != (scoped := self._scoped()):
            self.hooks[self.key] = scoped  # where nothing stood, or a capture alone

    def leave(self) -> None:
        """Count one open scope less; the lock is held."""
        self.scopes -= 1
        if self.scopes == 0:
            if self.held:
                self.refresh()
            else:
                del self.hooks[self.key]

    def _scoped(self) -> Callable[..., Any]:
        return self.after_scoped if self.is_after else self.before_scoped

    def _dispatcher(self) -> Callable[..., Any] | None:
        before = not self.is_after
        if self.scopes:
            return self._scoped()
        if self.backward:
            return self.after_several
        match self.forward:
            case ():
                return None
            case (entry,):
                return entry.before if before else entry.after
        return self._several()

    def _several(self) -> Callable[..., Any]:
        return self.after_several if self.is_after else self.before_several

    def after_several(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run the registered hooks in order on what the module returned."""
        changed = None  # rather than a look at what was given: `is` of tuples does not trace
        for entry in self.forward:
            new = entry.after(module, args, kwargs, output)
            if new is not None:
                output = changed = new
        if self.backward:
            new = watch_gradient(self.backward, module, args, kwargs, output)
            if new is not None:
                changed = new
        return changed

    def after_scoped(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run the registered hooks, then those of this thread's or task's open scopes."""
        frame = of_thread.frame if _get_running_loop() is None else frame_of_task()
        if frame is not None and frame.closed:  # by another thread
            frame = visible_frame()
        if frame is None:
            return self.after_several(module, args, kwargs, output)
        steps = frame.table.get(self, NO_STEPS)
        if not self.held:
            keep = steps.keep
            if keep is not None and type(output) is Tensor:  # nothing here but a plain capture
                keep.calls.append(output.detach().clone())
                return None
        given = output
        for entry in frame.heard(self.forward + steps.forward):
            new = entry.after(module, args, kwargs, output)
            if new is not None:
                output = new
        if self.backward or steps.backward:
            backward = frame.heard(self.backward + steps.backward)
            new = watch_gradient(backward, module, args, kwargs, output)
            if new is not None:
                output = new
        if steps.stop is not None:
            steps.stop()
        return None if output is given else output

    def before_several(
        self, module: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        """Run the registered hooks in order on the inputs."""
        new = None
        for entry in self.forward:
            changed = entry.before(module, args, kwargs)
            if changed is not None:
                args, kwargs = new = changed
        return new

    def before_scoped(
        self, module: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        """Run the registered hooks, then those of this thread's or task's open scopes."""
        frame = visible_frame()
        if frame is None:
            return self.before_several(module, args, kwargs)
        new = None
        steps = frame.table.get(self, NO_STEPS)
        for entry in frame.heard(self.forward + steps.forward):
            changed = entry.before(module, args, kwargs)
            if changed is not None:
                args, kwargs = new = changed
        return new

    def __deepcopy__(self, memo: Any) -> "Site":
        return _empty_site()

    def __reduce__(self) -> Any:
        return _empty_site, ()


class InsteadSite(Place):
    """A module whose forward open scopes may answer for; on it only while such a scope is open."""

    __slots__ = ("_forward", "_module", "_own")

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = weakref.ref(module)
        self._forward: Callable[..., Any] | None = None
        self._own = False

    @property
    def installed(self) -> bool:
        return self._forward is not None

    def enter(self) -> None:
        self.scopes += 1
        module = self._module()
        if self.scopes == 1 and module is not None and self._forward is None:
            self._own = "forward" in vars(module)
            self._forward = module.forward
            vars(module)["forward"] = self.forward

    def leave(self) -> None:
        self.scopes -= 1
        module = self._module()
        if self.scopes == 0 and module is not None:
            if vars(module).get("forward") != self.forward:
                return  # somebody wrapped it meanwhile: they go on calling it
            if self._own:
                vars(module)["forward"] = self._forward
            else:
                del vars(module)["forward"]
            self._forward = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the innermost scope of this thread or task says, else run the module."""
        module, forward = self._module(), self._forward
        frame = visible_frame()
        steps = NO_STEPS if frame is None else frame.table.get(self, NO_STEPS)
        if steps.forward:
            return steps.forward[-1].instead(*args, **kwargs)
        if forward is None:  # the last scope of another thread closed as this call began
            assert module is not None
            forward = module.forward
        return forward(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("A module cannot be copied while a scope answers for its forward.")


def tell_compiler() -> None:
    """Make code that `torch.compile` made look at hooks, and leave scopes to Python.

    It skips that by default, so a hook that comes after the first compiled call would silently do
    nothing. At the first change of a hook in a process that compiles, what was compiled so far is
    dropped, and what is compiled from then on is guarded by the hooks of its modules.
    """
    dynamo = sys.modules.get("torch._dynamo")
    config = None if dynamo is None else getattr(dynamo, "config", None)
    if dynamo is None or config is None or not dynamo.eval_frame.cached_backends:
        return  # nothing has been given to torch.compile yet
    if not _left_to_python:
        _left_to_python.append(True)
        compiler: Any = torch.compiler  # this function of it has no types
        for kind, name in (
            (Site, "after_scoped"),
            (Site, "before_scoped"),
            (InsteadSite, "forward"),
        ):
            disabled = compiler.disable(getattr(kind, name), reason=_WHY_NOT_COMPILED)
            setattr(kind, name, disabled)
    if config.skip_nnmodule_hook_guards:
        config.skip_nnmodule_hook_guards = False
        dynamo.reset()


_left_to_python: list[bool] = []
_WHY_NOT_COMPILED = (
    "A scope of tenterhook (capture, steer, hooks) is open, and what it runs depends on the thread "
    "that calls. With fullgraph=True register a hook before compiling instead, or leave fullgraph "
    "out."
)


def _empty_site() -> Site:
    """Return what a copy or pickle of a hooked module has in a site's place: nothing to run."""
    site = Site.__new__(Site)
    site.forward, site.backward, site.held = (), (), ()
    return site


_keys = itertools.count(1)


class _Sites(dict[str, Any]):
    """The sites of one module, kept in the module, so that they go when it goes.

    They are an attribute of torch's dictionary `_state_dict_hooks`: one more of the module's own
    would make Python's way to the others longer, and each call of an idle module 3 % dearer.

    A copy or pickle of the module starts with none, and without the torch hooks that are ours;
    torch's dictionaries of those come before this one.
    """

    def __reduce__(self) -> Any:
        ours = [(s.hooks, s.key) for s in self.values() if isinstance(s, Site) and s.installed]
        return (_taken_off, (ours,)) if ours else (dict, ())


def _taken_off(ours: list[tuple[dict[int, Any], int]]) -> dict[str, Any]:
    """Take our hooks off a copy's dictionaries, which were copied before; see `_Sites`."""
    for hooks, key in ours:
        hooks.pop(key, None)
    return {}


_NO_SITES = _Sites()


def _kept_in(module: nn.Module) -> _Sites:
    found = getattr(module._state_dict_hooks, "tenterhook_sites", None)
    return found if isinstance(found, _Sites) else _NO_SITES


def site_of(module: nn.Module, side: Side) -> Site:
    """Return the one site at this side of this module, made at first need."""
    site: Site = _made(module, side, lambda: Site(module, side))
    return site


def instead_of(module: nn.Module) -> InsteadSite:
    """Return the place where scopes answer for this module's forward, made at first need."""
    site: InsteadSite = _made(module, "instead", lambda: InsteadSite(module))
    return site


def _made(module: nn.Module, side: str, make: Callable[[], Any]) -> Any:
    with lock:
        sites = _kept_in(module)
        if sites is _NO_SITES:
            sites = module._state_dict_hooks.tenterhook_sites = _Sites()  # type: ignore[attr-defined]
        if side not in sites:
            sites[side] = make()
        return sites[side]


def sites_of(module: nn.Module) -> list[Place]:
    """Return the sites there are on this module."""
    return list(_kept_in(module).values())


Put = tuple[Site, dict[int, Callable[..., Any]], int, Callable[..., Any]]
"""A site, torch's dictionary of hooks there, our key in it, and what to put there: how a scope
comes and goes."""


def puts_of(steps: Mapping[Place, Steps]) -> list[Put]:
    """Return how to come and go at sites after a module, worked out once for many scopes.

    Raises `TypeError` for places of another kind, whose own `enter` and `leave` are to be called.
    """
    puts = []
    for site, step in steps.items():
        if not isinstance(site, Site) or not site.is_after:
            raise TypeError("Only sites after a module can be put in line.")
        direct = site.after_scoped if step.keep is None else step.keep.after_alone(site)
        puts.append((site, site.hooks, site.key, direct))
    return puts


def open_frame(
    own: dict[Place, Steps],
    also: Sequence[Place] = (),
    *,
    mute: bool = False,
    puts: Sequence[Put] | None = None,
) -> Frame:
    """Make the steps run at their sites, for this thread and task alone, until closed.

    `also` are sites that need to know of the scope though it has no step there. With `mute`,
    controllers of every kind are off. `puts` are those of all sites of `own`, where the caller
    has them; the same then go to `close_frame`.
    """
    with lock:
        frame = Frame(own, tuple(also), mute)
        if "torch._dynamo" in sys.modules:
            tell_compiler()
        if puts is None or _left_to_python:
            for place in (*own, *also):
                place.enter()
        else:  # what enter does, in line: it is most of what opening a scope costs
            for site, hooks, key, alone in puts:
                if site.scopes or site.held:
                    site.enter()
                else:
                    site.scopes = 1
                    hooks[key] = alone
    show_frame(frame)
    return frame


def close_frame(frame: Frame, puts: Sequence[Put] | None = None) -> None:
    """Undo `open_frame`, from whichever thread; a second call does nothing."""
    with lock:
        if frame.closed:
            return
        frame.close()
        if "torch._dynamo" in sys.modules:
            tell_compiler()
        if puts is None:
            for place in (*frame.own, *frame.also):
                place.leave()
        else:
            for site, hooks, key, _ in puts:
                if site.scopes != 1 or site.held:
                    site.leave()
                else:
                    site.scopes = 0
                    del hooks[key]


class Registration:
    """A hook, where it stands, and the way to take it off: the handle of `_hook_registry`."""

    __slots__ = (
        "_remove",
        "due",
        "entry",
        "hook",
        "hook_type",
        "layer",
        "owner",
        "permanent",
        "priority",
        "site",
    )

    def __init__(
        self,
        hook: Hook,
        layer: str,
        site: Site,
        entry: Entry,
        *,
        priority: int,
        permanent: bool,
        remove: "Callable[[Registration], Any]",
    ) -> None:
        self.hook, self.layer, self.site, self.entry = hook, layer, site, entry
        self.hook_type = hook.hook_type
        self.priority, self.permanent = priority, permanent
        self._remove = remove
        self.owner: Any = None
        """The object that `attach` gave, so that it lives as long as its hooks."""
        self.due = object() if hook._enabled else None
        """What it has been from when it was last switched on, `None` while it is off."""

    def remove(self) -> None:
        """Unregister the hook; a second call does nothing."""
        self._remove(self)

    def refresh(self) -> None:
        """Take note that the hook was switched on or off."""
        self.due = None
        self.site.refresh()
        if self.hook._enabled:  # not before the site knows of it
            self.due = object()

    def __repr__(self) -> str:
        return f"Registration({self.hook!r})"


def torch_hook(hook: Hook) -> Callable[..., Any]:
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
