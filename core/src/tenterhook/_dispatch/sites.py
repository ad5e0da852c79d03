"""How hooks reach a module: one torch hook per module and side, and all of ours runs inside it.

A *site* is a module and a side of its forward. What happens when a module is called:

1. torch finds our hook in the module's own dictionary of hooks. It is there only while something
   is to run, so an idle model runs at its own speed (1.00 x bare; "attached" in the benchmark).
2. The hook is one of the site's methods, chosen when hooks last changed, so that a call decides as
   little as it can: a single registered hook stands there itself (`entry.after`), several go
   through `after_several`, and where a scope is open `after_scoped` asks whose call it is: this
   thread's innermost open scope, or this task's.
3. Registered hooks run first, in their order; then the scopes', from the outermost in; then a
   scope's `stop_after` ends the forward.
4. A replacement goes into a new structure of the same type; nobody's tensor is written to.

Other threads may register, unregister or close a scope at any line below. They never change a
tuple that a call is reading: under the lock, they put a new tuple in its place. Other people's
torch hooks are never moved or removed. Others may remove ours, by emptying torch's dictionaries or
giving the module new ones: scopes end as if it had not happened, and later ones run again.

A scope's part is nearly always the only thing at its site. It stands there itself then
(`installs_of`), and asks the site only in a call that is not of its scope's thread. Opening such a
scope is one dictionary operation a site, done in line: it is most of what a scope over 48 modules
costs beside the look for the layers.

What a trick buys is said beside it: `benchmarks/bench_tricks.py` takes out one at a time, and
`bench_hooked_call.py` times the whole. Two tests hold all of it to plain torch hooks, at random:
`test_dispatch_forward.py` stacks of hooks, `test_scopes_property.py` the lives of scopes.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any, Literal

from torch import jit, nn

from tenterhook._dispatch import compiler
from tenterhook._dispatch.entries import Args, Entry, Kwargs
from tenterhook._dispatch.frames import (
    NO_STEPS,
    Frame,
    Place,
    Steps,
    lock,
    show_frame,
    steps_here,
    visible_frame,
)
from tenterhook._dispatch.gradients import watch_gradient
from tenterhook.hook_type import HookType

Side = Literal["before", "after"]


class Site(Place):
    """One side of one module's forward, and the torch hook there while something is to run."""

    __slots__ = ("attribute", "backward", "forward", "hooks", "is_after", "is_new", "key", "module")

    def __init__(self, module: nn.Module, side: Side) -> None:
        super().__init__()
        self.is_after, self.module = side == "after", weakref.ref(module)
        self.is_new = bool(compiler.left_to_python)  # in no code that passes over hooks
        self.forward: tuple[Entry, ...] = ()
        self.backward: tuple[Entry, ...] = ()
        # torch's own dictionaries, so coming and going is one dictionary operation. No id that
        # torch gives is negative, so ours meet none, in no process that loads the module either.
        # The flag stays: a thread in the middle of a call looks it up after we have gone.
        self.key = -next(_keys)
        self.attribute = "_forward_hooks" if self.is_after else "_forward_pre_hooks"
        self.hooks: dict[int, Callable[..., Any]] = vars(module)[self.attribute]
        vars(module)[f"{self.attribute}_with_kwargs"][self.key] = True

    @property
    def installed(self) -> bool:
        """Whether our torch hook is on the module now."""
        return self.key in self.hooks

    def hold(self, registrations: tuple[Any, ...]) -> None:
        """Have these, in this order, and no others, registered here."""
        with lock:
            self.held = registrations
            self.refresh()

    def refresh(self) -> None:
        """Rebuild what runs; put the torch hook on the module, change it, or take it off."""
        with lock:
            compiler.hooks_change()
            sides: tuple[list[Entry], list[Entry]] = [], []
            for held in self.held:
                if held.hook._enabled:
                    sides[held.hook_type is HookType.BACKWARD].extend(held.entries)
            self.forward, self.backward = map(tuple, sides)
            dispatcher = self._dispatcher()
            # A key that is there already keeps its place among other people's hooks when its value
            # changes, and comes last when it was gone: so we change, and rather leave one that runs
            # nothing than move. test_registry.py, `test_keep_their_places`.
            if dispatcher is not None:
                self.hooks[self.key] = dispatcher
            elif self.key in self.hooks:
                # disabled: keep the place before other people's hooks
                if self.held and next(reversed(self.hooks)) != self.key:
                    self.hooks[self.key] = self._on_side(self, "_several")
                else:
                    del self.hooks[self.key]
            self._look_anew()

    def enter(self) -> None:
        """Count one more open scope that looks here; the lock is held."""
        self.scopes += 1
        if self.scopes == 1 and self.held:
            self.refresh()
        elif self.hooks.get(self.key) != (scoped := self.scoped):
            self.hooks[self.key] = scoped  # where nothing stood, or a capture alone
        self._look_anew()

    def leave(self) -> None:
        """Count one open scope less; the lock is held."""
        self.scopes -= 1
        if self.scopes == 0:
            if self.held:
                self.refresh()
            else:
                self.hooks.pop(self.key, None)
        self._look_anew()

    def _look_anew(self) -> None:
        """Have code that was compiled without a look at hooks not be taken while some are here.

        TorchScript is called as it is, and its classes have no `forward` to give.
        """
        module = self.module() if compiler.left_to_python else None
        if module is not None and not isinstance(module, jit.ScriptModule):
            hooked = not self.is_new or any(site.installed for site in sites_of(module))
            compiler.look_anew(module, hooked)

    @property
    def scoped(self) -> Callable[..., Any]:
        """What stands here while scopes are open."""
        return self._on_side(self, "_scoped")

    def _dispatcher(self) -> Callable[..., Any] | None:
        if self.scopes:
            return self.scoped
        if len(self.forward) == 1 and not self.backward and isinstance(self.forward[0], Entry):
            # Torch calls the entry itself: `after_several` would be two more Python calls, some
            # hundredths of a hooked call.
            return self._on_side(self.forward[0])
        return self._on_side(self, "_several") if self.forward or self.backward else None

    def _on_side(self, of: Any, way: str = "") -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(of, ("after" if self.is_after else "before") + way)
        return found

    def after_several(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run the registered hooks in order on what the module returned."""
        return run_after(self.forward, self.backward, module, args, kwargs, output)

    def after_scoped(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        """Run the registered hooks, then those of this thread's or task's open scopes."""
        # Whose call it is comes before all else: where a scope of another thread is open here, this
        # one runs what is registered alone. test_scopes_threads.py, `TestSharing`.
        frame = visible_frame()
        if frame is None:
            return self.after_several(module, args, kwargs, output)
        steps = frame.table.get(self, NO_STEPS)
        forward = self._standing(frame, self.forward + steps.forward)
        backward = frame.running(self.backward + steps.backward)
        new = run_after(forward, backward, module, args, kwargs, output)
        if steps.stop is not None and not frame.closed:  # raises, so all who look here have looked
            steps.stop()
        return new

    def before_several(
        self, module: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        """Run the registered hooks in order on the inputs."""
        return run_before(self.forward, module, args, kwargs)

    def before_scoped(
        self, module: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        """Run the registered hooks, then those of this thread's or task's open scopes."""
        frame = visible_frame()
        if frame is None:
            return self.before_several(module, args, kwargs)
        entries = self.forward + frame.table.get(self, NO_STEPS).forward
        return run_before(self._standing(frame, entries), module, args, kwargs)

    def _standing(self, frame: Frame, entries: tuple[Any, ...]) -> Iterator[Any]:
        """Yield what runs here, as long as the scope is open.

        A hook may close it in the middle of a call, or another thread. What it ran may be another
        scope's already, so then that alone runs which runs here still.
        """
        for entry in frame.running(entries):
            if not frame.closed or entry in self.forward + steps_here(self).forward:
                yield entry

    def __reduce__(self) -> Any:
        return _empty_site, ()


def run_after(forward: Iterable[Entry], backward: Sequence[Entry], *given: Any) -> Any:
    """Run hooks in order on an output, those of its gradient; return a new one, or `None`."""
    module, args, kwargs, output = given
    changed = None  # rather than a look at what was given: `is` of tuples does not trace
    for entry in forward:
        new = entry.after(module, args, kwargs, output)
        if new is not None:
            output = changed = new
    # After all forward hooks: the gradient is that of what the site hands on.
    if backward:
        new = watch_gradient(backward, module, args, kwargs, output)
        if new is not None:
            changed = new
    return changed


def run_before(
    entries: Iterable[Entry], module: nn.Module, args: Args, kwargs: Kwargs
) -> tuple[Args, Kwargs] | None:
    """Run hooks in order on the inputs; return new ones, or `None` where they stay."""
    new = None
    for entry in entries:
        changed = entry.before(module, args, kwargs)
        if changed is not None:
            args, kwargs = new = changed
    return new


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
        if not self.scopes:
            self._put_back()
        module = self._module()
        return module is not None and vars(module).get("forward") == self.forward

    def enter(self) -> None:
        self.scopes += 1
        module = self._module()
        if self.scopes == 1 and module is not None and self._forward is None:
            # Torch calls whatever `forward` the instance has, and so does our detour. What stood in
            # the instance before, as accelerate puts it there, comes back in `leave`.
            # test_scopes_replace.py, `test_own_forward`.
            self._own = "forward" in vars(module)
            self._forward = module.forward
            vars(module)["forward"] = self.forward

    def leave(self) -> None:
        self.scopes -= 1
        if self.scopes == 0:
            self._put_back()

    def _put_back(self) -> None:
        """Put the module's forward wherever in the module our detour stands.

        Who wraps a forward keeps the one of before, accelerate in the module itself, and may put
        it back long after the scope.
        """
        module, forward = self._module(), self._forward
        own = {} if module is None else vars(module)
        for name, value in list(own.items()):
            if isinstance(value, MethodType) and value.__self__ is self:
                own[name] = forward
                if name == "forward" and not self._own:
                    del own[name]
                self._forward = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the innermost scope of this thread or task says, else run the module."""
        module, forward = self._module(), self._forward
        for step in reversed(steps_here(self).forward):
            output = step.instead(*args, **kwargs)
            if output is not NotImplemented:
                return output
        if forward is None:  # the last scope of another thread closed as this call began
            forward = module.forward  # type: ignore[union-attr]
        return forward(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("A module cannot be copied while a scope answers for its forward.")


def _empty_site() -> Site:
    """Return what a copy or pickle of a hooked module has in a site's place: nothing to run."""
    site = Site.__new__(Site)
    site.forward, site.backward, site.held = (), (), ()
    return site


_keys = itertools.count(1)


class _Sites(dict[str, Any]):
    """The sites of one module, kept in the module, so that they go when it goes.

    They are an attribute of torch's dictionary `_state_dict_hooks`: one more of the module's own
    would make Python's way to the others longer at each call of an idle module.

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


def _sites_in(module: nn.Module) -> _Sites:
    found = getattr(module._state_dict_hooks, "tenterhook_sites", None)
    return found if isinstance(found, _Sites) else _NO_SITES


def site_of(module: nn.Module, side: Side) -> Site:
    """Return the one site at this side of this module, made at first need."""
    site: Site = _made(module, side, lambda: Site(module, side))
    if site.hooks is not vars(module)[site.attribute]:
        with lock:  # somebody gave the module new ones
            site = _sites_in(module)[side] = Site(module, side)
    return site


def instead_of(module: nn.Module) -> InsteadSite:
    """Return the place where scopes answer for this module's forward, made at first need."""
    site: InsteadSite = _made(module, "instead", lambda: InsteadSite(module))
    with lock:
        if not site.scopes and site._forward is not None and not site.installed:
            # somebody wrapped it or took it off; their wrapper goes on calling the old one
            site = _sites_in(module)["instead"] = InsteadSite(module)
    return site


def _made(module: nn.Module, side: str, make: Callable[[], Any]) -> Any:
    with lock:
        sites = _sites_in(module)
        if sites is _NO_SITES:
            sites = module._state_dict_hooks.tenterhook_sites = _Sites()  # type: ignore[attr-defined]
        if side not in sites:
            sites[side] = make()
        return sites[side]


def sites_of(module: nn.Module) -> list[Place]:
    """Return the sites there are on this module."""
    return list(_sites_in(module).values())


Installs = Sequence[tuple[Site, dict[int, Callable[..., Any]], int, Callable[..., Any]]]
"""For each site of a scope: torch's dictionary of hooks there, our key in it, and what stands there
while nothing else does."""


def installs_of(steps: Mapping[Any, Steps]) -> Installs:
    """Return how to come and go at these sites, worked out once for many scopes."""
    installs = []
    for site, step in steps.items():
        direct = site.scoped
        if site.is_after and len(step.forward) == 1 and not step.backward and step.stop is None:
            direct = getattr(step.forward[0], "alone", direct)
        installs.append((site, site.hooks, site.key, direct))
    return installs


def open_frame(
    own: dict[Place, Steps], installs: Installs | None = None, *, mute: bool = False
) -> Frame:
    """Make the steps run at their places, for this thread and task alone, until closed.

    With `mute`, controllers of every kind are off. `installs` are those of all places of `own`,
    where the caller has them; the same then go to `close_frame`.
    """
    with lock:
        frame = Frame(own, mute)
        compiler.hooks_change()
        if installs is None or frame.muted or compiler.left_to_python:
            for place in own:
                place.enter()
        else:
            # What `enter` does, in line, and what `leave` does below: with a call for each site a
            # capture of 48 layers takes 2.4 times as long to open and close, a steer 1.8 times.
            # `test_lives_of_scopes` in test_scopes_property.py mixes both ways.
            for site, hooks, key, alone in installs:
                if site.scopes or site.held:
                    site.enter()
                else:
                    site.scopes = 1
                    hooks[key] = alone
        _open[id(frame)] = weakref.ref(frame)
    show_frame(frame)
    return frame


_open: "dict[int, weakref.ref[Frame]]" = {}
"""The open scopes. Where a thread has ended with one, nobody else may hold it."""


def left_open(place: Place) -> int:
    """Return how many of the scopes that look here were opened by threads or tasks that ended."""
    with lock:
        frames = [frame for reference in _open.values() if (frame := reference()) is not None]
        return place.scopes - sum(frame.lives for frame in frames if place in frame.own)


def close_frame(frame: Frame, installs: Installs | None = None) -> bool:
    """Undo `open_frame`, from whichever thread; return what `Frame.close` does."""
    with lock:
        # First: a call that comes now, by a torch hook that still stands, finds no steps.
        is_free = frame.close()
        _open.pop(id(frame), None)
        compiler.hooks_change()
        if installs is None or compiler.left_to_python:
            for place in frame.own:
                place.leave()
        else:
            for site, hooks, key, _ in installs:
                if site.scopes != 1 or site.held:
                    site.leave()
                else:
                    site.scopes = 0
                    hooks.pop(key, None)
    return is_free


compiler.leave_to_python(Site, "after_scoped", "before_scoped")
compiler.leave_to_python(InsteadSite, "forward")
