"""The plugins of a program and what they offer; pluggy is used here and nowhere else."""

import threading
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

import attrs
import pluggy

from tenterhook import hookspecs
from tenterhook.errors import closest
from tenterhook.extensions import Extension
from tenterhook.hookspecs import KINDS
from tenterhook.plugins._entry_points import find_installed, names_not_installed
from tenterhook.plugins._problems import (
    PluginError,
    PluginProblem,
    UnknownExtension,
    singular,
)


@attrs.frozen(kw_only=True)
class Registered:
    """An extension and where it comes from."""

    extension: Extension
    kind: str
    """One of `tenterhook.hookspecs.KINDS`."""
    plugin: str
    """The name of the plugin: its entry point's, or the one it was registered by."""
    distribution: str | None
    """`None` for a plugin that was registered by hand."""
    version: str | None


class PluginManager:
    """The plugins of one program: those installed, and those registered by hand.

    `autoload=True` loads the installed ones at once. Managers share nothing with each other.
    Any thread may call any method; readers take no lock.
    """

    def __init__(self, *, autoload: bool = True) -> None:
        self._lock = threading.RLock()
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._registered: tuple[Registered, ...] = ()
        self._problems: tuple[PluginProblem, ...] = ()
        self._tried: set[tuple[str, str]] = set()
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
        """
        with self._lock:
            found, problems = find_installed()
            problems += names_not_installed(found)
            for each in found:
                if each.key in self._tried or not each.wanted():
                    continue
                self._tried.add(each.key)
                try:
                    plugin = each.entry_point.load()
                    self._add(plugin, each.entry_point.name, each.distribution, each.version)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - it is reported
                    problems.append(each.problem(error))
            fresh = tuple(each for each in problems if each not in self._problems)
            self._problems += fresh
        return fresh

    def _add(
        self, plugin: object, name: str, distribution: str | None, version: str | None
    ) -> None:
        with self._lock:
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
                        yield hooks[caller.name], extension
            elif not all(each.optionalhook for each in own):
                near = (closest(caller.name, hooks) or list(hooks))[0]
                raise PluginError(name, f"there is no hook {caller.name!r}. Did you mean {near!r}?")


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
