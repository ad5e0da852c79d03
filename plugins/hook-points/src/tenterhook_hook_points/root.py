"""The root of a model with hook points: their names, and capturing, changing, undoing by name."""

import logging
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from tenterhook.compiling import hooks_changed
from tenterhook_hook_points._cache_hooks import CacheHooks, CacheHooksPool, ReadyHooks, UserHooks
from tenterhook_hook_points._lens_scope import LensScope, OpenScopes, here, opening
from tenterhook_hook_points.cache import ActivationCache
from tenterhook_hook_points.caching import PosSlice, first_alone, keeper
from tenterhook_hook_points.handles import Hook, LensHandle
from tenterhook_hook_points.introspection import HookIntrospectionMixin
from tenterhook_hook_points.names import NamesFilter, checked_direction, chosen
from tenterhook_hook_points.point import HookPoint

NamedHooks = Iterable[tuple[NamesFilter, Hook]]
"""Pairs of a name, pattern, predicate or list of these, and a hook."""

_log = logging.getLogger("tenterhook_hook_points")


class HookedRootModule(HookIntrospectionMixin, nn.Module):
    """A module that finds the hook points inside it.

    Call `self.setup()` at the end of `__init__`. Hooks of `hooks`, `run_with_hooks` and
    `run_with_cache` run for the thread or asyncio task that opened them, and are gone when these
    end, whichever way; hooks that were there before stay.
    """

    mod_dict: dict[str, nn.Module]
    """Every submodule by its dotted name."""

    hook_dict: dict[str, HookPoint]
    """Every hook point by its dotted name."""

    def __init__(self) -> None:
        super().__init__()
        self.name: str | None = None
        self.mod_dict = {}
        self.hook_dict = {}
        self._open_scopes = OpenScopes()
        self._cache_hooks = CacheHooksPool()

    def setup(self) -> None:
        """Name every submodule, and fill `mod_dict` and `hook_dict`.

        A submodule that has several names gets the first, as in `named_modules`. Call it again
        where modules came later.
        """
        self.mod_dict = {name: module for name, module in self.named_modules() if name}
        self.hook_dict = {
            name: module for name, module in self.mod_dict.items() if isinstance(module, HookPoint)
        }
        for name, module in self.mod_dict.items():
            try:
                module.name = name  # type: ignore[assignment]
            except (AttributeError, TypeError):  # a property, or a submodule of that name
                continue

    def hook_points(self) -> Iterable[HookPoint]:
        """Return the points, in `named_modules` order."""
        return self.hook_dict.values()

    @property
    def context_level(self) -> int:
        """How many `hooks` scopes of this model this thread or task has open."""
        return self._open_scopes.level()

    # --- attaching

    def add_hook(
        self,
        name: NamesFilter,
        hook: Hook,
        dir: str = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> list[LensHandle]:
        """Attach a hook to the points that `name` means; see `HookPoint.add_hook`.

        At the `level` of a scope that this thread or task has open it is one of that scope's.

        Raises `UnknownHookPoint`, naming the closest.
        """
        checked_direction(dir, both=False)
        return [
            self.check_and_add_hook(
                self.hook_dict[each],
                each,
                hook,
                dir=dir,
                is_permanent=is_permanent,
                level=level,
                prepend=prepend,
            )
            for each in self._chosen(name)
        ]

    def add_perma_hook(self, name: NamesFilter, hook: Hook, dir: str = "fwd") -> list[LensHandle]:
        """Attach a hook that stays until permanent hooks are asked to go too."""
        return self.add_hook(name, hook, dir=dir, is_permanent=True)

    def check_and_add_hook(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: Hook,
        dir: str = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> LensHandle:
        """Ask `check_hooks_to_add`, then attach the hook; every hook of the root comes by here."""
        self.check_hooks_to_add(
            hook_point, hook_point_name, hook, dir=dir, is_permanent=is_permanent, prepend=prepend
        )
        scope = None if is_permanent or opening() else self._open_scopes.mine_at(level)
        with nullcontext() if scope is None else scope.attaching():
            return hook_point.add_hook(
                hook, dir=dir, is_permanent=is_permanent, level=level, prepend=prepend
            )

    def check_hooks_to_add(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: Hook,
        dir: str = "fwd",
        is_permanent: bool = False,
        prepend: bool = False,
    ) -> None:
        """Raise where a hook must not go to a point; for subclasses. Here, nothing is raised."""

    # --- undoing

    def remove_all_hook_fns(
        self,
        direction: str = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Take off the hooks of every point; see `HookPoint.remove_hooks`."""
        checked_direction(direction, name="direction")
        for point in self.hook_points():
            point.remove_hooks(direction, including_permanent=including_permanent, level=level)

    def clear_contexts(self) -> None:
        """Forget what hooks kept in the `ctx` of every point."""
        for point in self.hook_points():
            point.clear_context()

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: str = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Take off the hooks of every point, and by default forget their contexts."""
        self.remove_all_hook_fns(direction, including_permanent=including_permanent, level=level)
        if clear_contexts:
            self.clear_contexts()

    # --- scopes

    @contextmanager
    def hooks(
        self,
        fwd_hooks: NamedHooks = [],  # noqa: B006  # the vocabulary's; never written to
        bwd_hooks: NamedHooks = [],  # noqa: B006
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[Self]:
        """Have hooks on points while the scope is open, for this thread or task alone.

        Each entry is `(names, hook)`. With `reset_hooks_end=False` the hooks stay, and are
        everyone's; else, with `clear_contexts`, what hooks kept in the points is forgotten at the
        end too. Scopes nest; each takes off its own.

        Raises `UnknownHookPoint`, and nothing is attached then.
        """
        fwd_hooks, bwd_hooks = list(_pairs(fwd_hooks)), list(_pairs(bwd_hooks))
        if reset_hooks_end and not bwd_hooks and (ready := self._ready(fwd_hooks)):
            with self._opened(*ready, clear_contexts):
                yield self
            return
        level = self.context_level + 1
        compiling = hooks_changed(self)
        scope = LensScope(here() if reset_hooks_end else None, level, compiling=compiling)
        self._open_scopes.scopes.append(scope)
        keep = False
        try:
            with scope.attaching():
                for name, hook in fwd_hooks:
                    self.add_hook(name, hook, dir="fwd", level=level)
                for name, hook in bwd_hooks:
                    self.add_hook(name, hook, dir="bwd", level=level)
            keep = not reset_hooks_end
            yield self
        finally:
            self._open_scopes.scopes.remove(scope)
            if not keep:
                scope.close()
            if reset_hooks_end and clear_contexts:
                self.clear_contexts()

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: NamedHooks = [],  # noqa: B006
        bwd_hooks: NamedHooks = [],  # noqa: B006
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """Run the model with hooks on points, and return its output.

        Backward hooks are gone, too, before the caller can call `backward` on the output: for
        these use `hooks`, around both.
        """
        bwd_hooks = list(bwd_hooks)
        if bwd_hooks and reset_hooks_end:
            _log.warning(
                "run_with_hooks takes its backward hooks off before it returns; to call "
                "backward() with them, do so inside `with model.hooks(bwd_hooks=...)`."
            )
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(*model_args, **model_kwargs)

    def run_with_cache(
        self,
        *model_args: Any,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: PosSlice = None,
        **model_kwargs: Any,
    ) -> tuple[Any, ActivationCache]:
        """Run the model, and return its output and what its points saw.

        Each tensor is a detached copy in memory of its own, on `device` or where it was; of a
        point that ran several times, the last. With `incl_bwd` `backward` is called on the output,
        and the gradients are there as `<name>_grad`. `remove_batch_dim` is for a batch of one.
        `pos_slice`, an int, slice, tuple `(start, stop)` or list of positions, keeps a part of the
        sequence.

        With no `names_filter`, points at which `check_hooks_to_add` raises are passed over.

        Raises `UnknownHookPoint`; `ValueError` for an output that `backward` cannot start from,
        and for `remove_batch_dim` with another batch; what `check_hooks_to_add` raises at a point
        that was asked for.
        """
        cache = ActivationCache(model=self, has_batch_dim=not remove_batch_dim)
        plain = device is None and pos_slice is None and not (remove_batch_dim or incl_bwd)
        if plain and reset_hooks_end and self._adds_plainly and not hooks_changed(self):
            names = self._chosen(names_filter)
            points = [self.hook_dict[name] for name in names]
            hooks = self._cache_hooks.take(CacheHooks, names, points)
            if hooks is not None:
                hooks.cache = cache
                with self._opened(names, hooks, clear_contexts):
                    output = self(*model_args, **model_kwargs)
                return output, _fit_for_autograd(cache)
        _, fwd_hooks, bwd_hooks = self.get_caching_hooks(
            names_filter, incl_bwd, device, remove_batch_dim, cache, pos_slice
        )
        if reset_hooks_end:
            # `backward` comes first to a point's last call, the one whose tensor is kept.
            bwd_hooks = [(name, first_alone(hook)) for name, hook in bwd_hooks]
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            output = self(*model_args, **model_kwargs)
            if incl_bwd:
                _backward(output)
        return output, _fit_for_autograd(cache)

    # --- caching

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: MutableMapping[str, Tensor] | None = None,
        pos_slice: PosSlice = None,
    ) -> tuple[MutableMapping[str, Tensor], list[tuple[str, Hook]], list[tuple[str, Hook]]]:
        """Return a cache and the hooks that fill it, as `hooks` takes them; nothing is attached.

        With no `names_filter` there is none for points at which `check_hooks_to_add` raises.

        The cache is `cache` or a new dict: tensors by the points' names, and with `incl_bwd` the
        gradients as `<name>_grad`, of the same shape. Each is detached, in memory of its own, on
        `device` or where it was, and of the positions `pos_slice` alone; see `run_with_cache`.

        Raises `UnknownHookPoint`. Where a hook runs and `remove_batch_dim` meets another batch
        than one it raises `ValueError`, where the point returned no tensor `TypeError`.
        """
        into: MutableMapping[str, Tensor] = {} if cache is None else cache
        names = self._chosen(names_filter)

        def hooks(dir: str, suffix: str = "") -> list[tuple[str, Hook]]:
            made = [
                (name, keeper(into, name, suffix, device, remove_batch_dim, pos_slice))
                for name in names
            ]
            asked_for = names_filter is not None
            return made if asked_for else [each for each in made if self._allows(*each, dir)]

        return into, hooks("fwd"), hooks("bwd", "_grad") if incl_bwd else []

    def add_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: MutableMapping[str, Tensor] | None = None,
        pos_slice: PosSlice = None,
    ) -> MutableMapping[str, Tensor]:
        """Attach hooks that fill a cache until hooks are reset, and return the cache.

        Takes, fills and raises as `get_caching_hooks` does.
        """
        cache, fwd_hooks, bwd_hooks = self.get_caching_hooks(
            names_filter, incl_bwd, device, remove_batch_dim, cache, pos_slice
        )
        for name, hook in fwd_hooks:
            self.add_hook(name, hook, dir="fwd")
        for name, hook in bwd_hooks:
            self.add_hook(name, hook, dir="bwd")
        return cache

    def cache_all(
        self,
        cache: MutableMapping[str, Tensor],
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """Attach hooks that fill `cache` from every point until hooks are reset.

        The tensors are as `get_caching_hooks` says.
        """
        self.add_caching_hooks(None, incl_bwd, device, remove_batch_dim, cache)

    def cache_some(
        self,
        cache: MutableMapping[str, Tensor],
        names: NamesFilter,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """Attach hooks that fill `cache` from the points that `names` means, until reset.

        The tensors are as `get_caching_hooks` says. Raises `UnknownHookPoint`.
        """
        self.add_caching_hooks(names, incl_bwd, device, remove_batch_dim, cache)

    def _allows(self, name: str, hook: Hook, dir: str) -> bool:
        """Whether the model's own check lets the hook go to a point that nobody asked for."""
        try:
            self.check_hooks_to_add(self.hook_dict[name], name, hook, dir=dir)
        except Exception as error:  # noqa: BLE001 - the model's own, mostly an `assert`
            _log.info("%r is not cached, for check_hooks_to_add raised: %s", name, error)
            return False
        return True

    @property
    def _adds_plainly(self) -> bool:
        """Whether hooks go to points as we have it, and no subclass has a say."""
        mine, ours = type(self), HookedRootModule
        return (
            mine.add_hook is ours.add_hook
            and mine.check_and_add_hook is ours.check_and_add_hook
            and mine.check_hooks_to_add is ours.check_hooks_to_add
            and mine.get_caching_hooks is ours.get_caching_hooks
            and mine.hooks is ours.hooks
        )

    def _ready(self, pairs: list[tuple[NamesFilter, Hook]]) -> tuple[list[str], UserHooks] | None:
        """Return the points' names and hooks made before for them, with the user's in them.

        `None` where each has to be attached by `add_hook`: it, or the compiler, has a say.
        """
        if not self._adds_plainly or hooks_changed(self):
            return None
        if not all(callable(hook) for _, hook in pairs):
            return None
        known = self.hook_dict
        chosen = [
            (name, hook)
            for meant, hook in pairs
            for name in ([meant] if type(meant) is str and meant in known else self._chosen(meant))
        ]
        names = [name for name, _ in chosen]
        hooks = self._cache_hooks.take(UserHooks, names, [known[name] for name in names])
        if hooks is None:
            return None
        hooks.take([hook for _, hook in chosen])
        return names, hooks

    @contextmanager
    def _opened(self, names: list[str], hooks: ReadyHooks, clear_contexts: bool) -> Iterator[None]:
        """Have the hooks attached while the scope is open; a later one may use them again."""
        level = self.context_level + 1
        self._open_scopes.scopes.append(hooks.scope)
        try:
            hooks.open(level)
            yield
        finally:
            self._open_scopes.scopes.remove(hooks.scope)
            hooks.close()
            if clear_contexts:
                self.clear_contexts()
        self._cache_hooks.give_back(names, hooks)

    def _chosen(self, names_filter: NamesFilter) -> list[str]:
        if type(names_filter) is str and names_filter in self.hook_dict:
            return [names_filter]
        return chosen(names_filter, self.hook_dict, self.mod_dict)


def _pairs(hooks: Any) -> Iterator[tuple[NamesFilter, Hook]]:
    """Yield the entries; `TypeError` for one that is no pair of names and a hook."""
    for entry in hooks:
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise TypeError(
                f"An entry of fwd_hooks and bwd_hooks is a pair, (name, hook), and one is a "
                f"{type(entry).__name__}. For one hook write fwd_hooks=[(name, hook)]."
            )
        yield entry[0], entry[1]


def _fit_for_autograd(cache: ActivationCache) -> ActivationCache:
    """Make of what was kept in inference mode tensors like any other; return the cache."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            for name, tensor in cache.items():
                cache[name] = tensor.clone()
    return cache


def _backward(output: Any) -> None:
    """Call `backward` on what the model returned."""
    if not isinstance(output, Tensor) or output.numel() != 1 or not output.requires_grad:
        what = (
            f"{tuple(output.shape)}{'' if output.requires_grad else ' without gradients'}"
            if isinstance(output, Tensor)
            else f"a {type(output).__name__}"
        )
        raise ValueError(
            f"incl_bwd=True calls backward() on the output, and this one is {what}. Have the "
            "model return a loss, one number with gradients enabled; or use get_caching_hooks."
        )
    output.backward()  # type: ignore[no-untyped-call]
