"""The plugins of a program and what they offer; pluggy is used here and nowhere else."""

import importlib
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pluggy

from tenterhook import hookspecs
from tenterhook._commands import COMMANDS
from tenterhook._version import __version__
from tenterhook.errors import closest
from tenterhook.extensions import Extension
from tenterhook.hookspecs import CONTRACT, KINDS
from tenterhook.plugins._entry_points import find_installed, names_not_installed, normal_name
from tenterhook.plugins._problems import (
    BrokenPlugins,
    PluginError,
    PluginProblem,
    UnknownExtension,
    singular,
)
from tenterhook.plugins._registered import Registered


class PluginManager:
    """The plugins of one program: those installed, and those registered by hand.

    `autoload=True` loads the installed ones at once. Managers share nothing with each other.
    Any thread may call any method; readers take no lock. With `strict=True` an installed plugin
    that cannot be loaded raises `BrokenPlugins`, when all were tried, instead of being left out.
    """

    def __init__(self, *, autoload: bool = True, strict: bool = False) -> None:
        self.strict = strict
        self._lock = threading.RLock()
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._registered: tuple[Registered, ...] = ()
        self._problems: tuple[PluginProblem, ...] = ()
        self._tried: dict[tuple[str, str], bool] = {}
        """The installed plugins, by what they are told apart by: whether each was loaded."""
        self._follows_installed = False
        if autoload:
            self.load_entry_points()

    @property
    def problems(self) -> tuple[PluginProblem, ...]:
        """The installed plugins that were left out, and why."""
        return self._problems

    def extensions(self, kind: str) -> Mapping[str, Registered]:
        """Return what plugins offer of one kind, by name, sorted."""
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is no kind of extension. Use one of {list(KINDS)}.")
        found = {each.extension.name: each for each in self._registered if each.kind == kind}
        return MappingProxyType(dict(sorted(found.items())))

    def extension(self, kind: str, name: str) -> Extension:
        """Return the extension of that kind and name; `UnknownExtension` where there is none."""
        known = self.extensions(kind)
        if name not in known:
            raise UnknownExtension(kind, name, tuple(known))
        return known[name].extension

    def load(self, kind: str, name: str) -> Any:
        """Import the extension of that kind and name; see `Registered.load`.

        Raises `UnknownExtension` where there is none.
        """
        self.extension(kind, name)
        return self.extensions(kind)[name].load()

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin by hand: a module, or an object whose methods implement hooks.

        Raises `PluginError`, and changes nothing, where it breaks the contract or a name of it is
        taken.
        """
        self._add(plugin, name or self._pluggy.get_canonical_name(plugin), None, None)

    def unregister(self, name: str) -> bool:
        """Take out the plugin of that name and all it offers; `False` if it was not there."""
        with self._lock:
            found = self._pluggy.unregister(name=name) is not None
            self._registered = tuple(each for each in self._registered if each.plugin != name)
        return found

    def load_entry_points(self) -> tuple[PluginProblem, ...]:
        """Load the installed plugins that were not tried before, sorted, one at a time.

        Returns what went wrong with them, which `problems` keeps too. What the environment
        variables `TENTERHOOK_PLUGINS` and `TENTERHOOK_BLOCK_PLUGINS` keep out is not imported.
        Raises `BrokenPlugins` in strict mode, once the others are loaded.
        """
        with self._lock:
            self._follows_installed = True
            found, problems = find_installed()
            problems += names_not_installed(found)
            for each in found:
                if each.key in self._tried or not each.wanted():
                    continue
                self._tried[each.key] = False
                try:
                    with warnings.catch_warnings():  # whatever it does to the filters
                        plugin = each.entry_point.load()
                        self._add(plugin, each.entry_point.name, each.distribution, each.version)
                    self._tried[each.key] = True
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is reported
                    alike = [
                        other
                        for other in found
                        if other.called({normal_name(each.entry_point.name)})
                    ]
                    problems.append(each.problem(error, shares_name=len(alike) > 1))
            fresh = tuple(each for each in problems if each not in self._problems)
            self._problems += fresh
        if fresh and self.strict:
            raise BrokenPlugins(fresh)
        return fresh

    def _installed_since(self) -> bool:
        """Say whether something is installed that `load_entry_points` would load now.

        Never for a manager that loads nothing by itself.
        """
        if not self._follows_installed:
            return False
        importlib.invalidate_caches()
        found, _ = find_installed()
        return any(each.wanted() and each.key not in self._tried for each in found)

    def refresh(self) -> tuple[PluginProblem, ...]:
        """Look again at what is installed: for a notebook that has just installed something.

        Loads what is new, tries again what failed, and takes out what was uninstalled. Code that
        was imported stays what it was: an upgrade of a plugin in use takes a new process. Returns
        and raises as `load_entry_points` does.
        """
        with self._lock:
            importlib.invalidate_caches()
            found, _ = find_installed()
            here = {each.key for each in found if each.wanted()}
            for key, loaded in list(self._tried.items()):
                if loaded and key not in here:
                    self.unregister(key[1])
                if not loaded or key not in here:
                    del self._tried[key]
            self._problems = ()
            return self.load_entry_points()

    def _add(
        self, plugin: object, name: str, distribution: str | None, version: str | None
    ) -> None:
        with self._lock:
            if plugin is None:
                raise PluginError(name, "it is None. Name a module, or an object with hooks.")
            _check_contract(plugin, name)
            try:
                self._pluggy.register(plugin, name)
            except pluggy.PluginValidationError as error:
                raise PluginError(name, " ".join(str(error).split())) from error
            except ValueError as error:
                raise PluginError(name, "its name, or itself, is registered already.") from error
            try:
                fresh = tuple(
                    Registered(
                        extension=extension,
                        kind=kind,
                        plugin=name,
                        distribution=distribution,
                        version=version,
                    )
                    for kind, extension in self._ask(plugin, name)
                )
                _check_clashes(fresh, self._registered + fresh)
            except BaseException:
                self._pluggy.unregister(name=name)
                raise
            self._registered += fresh

    def _ask(self, plugin: object, name: str) -> Iterator[tuple[str, Extension]]:
        """Call the plugin's hooks, and no other plugin's."""
        hooks = {f"tenterhook_{kind}": kind for kind in KINDS}
        callers = self._pluggy.get_hookcallers(plugin) or []
        if not callers:
            raise PluginError(name, "it implements no hook. Mark its functions with @hookimpl.")
        for caller in callers:
            own = [each for each in caller.get_hookimpls() if each.plugin is plugin]
            if caller.has_spec():
                for implementation in own:
                    for extension in _checked(name, caller.name, implementation.function()):
                        if caller.name == "tenterhook_commands" and extension.name in COMMANDS:
                            what = f"its command {extension.name!r} is one of tenterhook's own."
                            raise PluginError(name, f"{what} Give it another name.")
                        yield hooks[caller.name], extension
            elif not all(each.optionalhook for each in own):
                near = (closest(caller.name, hooks) or list(hooks))[0]
                raise PluginError(name, f"there is no hook {caller.name!r}. Did you mean {near!r}?")


def _check_contract(plugin: object, name: str) -> None:
    wanted = getattr(plugin, "TENTERHOOK_CONTRACT", CONTRACT)
    if not isinstance(wanted, int) or isinstance(wanted, bool):
        raise PluginError(name, f"its TENTERHOOK_CONTRACT is {wanted!r}. Give a whole number.")
    if wanted > CONTRACT:
        raise PluginError(
            name,
            f"it is made for version {wanted} of the contract, and tenterhook {__version__} has "
            f"version {CONTRACT}. Update tenterhook.",
        )


def _check_clashes(fresh: Collection[Registered], registered: Collection[Registered]) -> None:
    for new in fresh:
        for old in registered:
            if old is not new and _clash(old, new):
                raise PluginError(
                    new.plugin,
                    f"its {singular(new.kind)} {new.extension.name!r} has the name of a "
                    f"{singular(old.kind)} of plugin {old.plugin!r}"
                    f" ({old.distribution or 'registered by hand'}).",
                )


def _clash(one: Registered, other: Registered) -> bool:
    if one.extension.name != other.extension.name:
        return False
    if one.kind == other.kind:
        return True
    # `tenterhook.hooks` serves both kinds; a class that is both is declared twice by its plugin.
    served_together = {one.kind, other.kind} == {"detectors", "controllers"}
    same = (one.plugin, one.extension) == (other.plugin, other.extension)
    return served_together and not same


def _checked(plugin: str, hook: str, answer: object) -> list[Extension]:
    if not isinstance(answer, (list, tuple)):
        shown = "None" if answer is None else f"a {type(answer).__name__}"
        raise PluginError(plugin, f"{hook} returned {shown}. Return a list of Extensions.")
    for each in answer:
        if not isinstance(each, Extension):
            raise PluginError(plugin, f"{hook} listed {each!r}, which is no Extension.")
    return list(answer)
