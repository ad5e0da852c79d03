"""The plugins of a program, and which of them serves a name.

How an installed plugin comes to be used:

1. `find_installed` reads the entry points of every distribution. Nothing is imported yet.
2. `load_entry_points` imports them one after the other, in the order of their names, asks each what
   it offers (`asking.ask`) and keeps the answer. One that fails becomes a `PluginProblem`; the
   next one is imported all the same.
3. When somebody asks for a name, `_decide` has looked at all that is offered. A name has one
   owner or none: what the program registered by hand comes first, a first-party name is its own
   distribution's, and a name that two plugins offer serves neither. So the order in which plugins
   were found changes nothing.
4. `Registered.load` imports the thing itself, which may be heavy, and not before.

Threads may do any of this at once. A plugin's import runs code that is not ours: it may ask for
plugins itself, or wait for another thread's import that does. So no lock is held while it runs, two
threads may import one plugin at once (Python makes one wait), and the first to finish keeps it.
`tests/test_plugin_threads.py` holds all of this. Readers take no lock: a change puts a new tuple of
plugins in the place of the old.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs

from tenterhook.extensions import Extension
from tenterhook.hookspecs import KINDS, SCHEMES
from tenterhook.plugins.asking import ask
from tenterhook.plugins.entry_points import (
    BLOCK_VARIABLE,
    ONLY_VARIABLE,
    InstalledPlugin,
    find_installed,
    normal_name,
)
from tenterhook.plugins.first_party import RESERVED, asked_as
from tenterhook.plugins.locking import lock
from tenterhook.plugins.printing import prints_to_stderr
from tenterhook.plugins.problems import (
    AmbiguousExtension,
    BrokenPlugins,
    PluginError,
    PluginProblem,
    UnknownExtension,
    named,
)
from tenterhook.plugins.registered import Registered

_Place = tuple[str, str]
"""What somebody asks for: `("hooks", "TopKSae")`, `("stores", "ZarrStore")`."""


@attrs.frozen(eq=False)
class _Plugin:
    """A plugin that is registered."""

    name: str
    code: object
    extensions: tuple[Registered, ...]
    key: tuple[str, str] | None
    """What an installed plugin is told apart by; `None` for one registered by hand."""


@attrs.frozen
class _Names:
    """What names give, of the extensions that are registered."""

    by_kind: Mapping[str, Mapping[str, Registered]]
    """Kind to name to extension, sorted by name; of the kind `hooks` detectors and controllers."""
    offered: Mapping[_Place, Sequence[Registered]]
    clashing: Mapping[_Place, tuple[tuple[str, ...], str]]
    """Who offers it, and the way out; none of them is served."""
    problems: tuple[PluginProblem, ...]


class PluginManager:
    """The plugins of one program: those installed, and those registered by hand.

    `autoload=True` loads the installed ones at once. Managers share nothing with each other.
    Any thread may call any method; readers take no lock, and none is held while a plugin's code
    runs. With `strict=True` an installed plugin that is broken or clashes with another raises
    `BrokenPlugins`, when all were tried, instead of being reported.
    """

    def __init__(self, *, autoload: bool = True, strict: bool = False) -> None:
        self.strict = strict
        self._plugins: tuple[_Plugin, ...] = ()
        self._problems: tuple[PluginProblem, ...] = ()
        self._tried: dict[tuple[str, str], PluginProblem | None] = {}
        """The installed plugins, by what they are told apart by: why each was left out, if so."""
        self._follows_installed = False
        self._is_due = False
        """Whether it is to load what is installed, and has not tried all of that yet."""
        if autoload:
            self.load_entry_points()

    @property
    def problems(self) -> tuple[PluginProblem, ...]:
        """What is wrong with the installed plugins: those left out, and those that clash."""
        return self._problems

    def extensions(self, kind: str) -> Mapping[str, Registered]:
        """Return what plugins offer of one kind, by name, sorted.

        Without names over which plugins clash: see `extension`. `kind="schemes"` gives the stores
        by the URL schemes that they serve, `kind="hooks"` detectors and controllers.
        """
        known = _decide(self._plugins).by_kind
        if kind not in known:
            raise ValueError(f"kind={kind!r} is no kind of extension. Use one of {list(KINDS)}.")
        return known[kind]

    def extension(self, kind: str, name: str) -> Extension:
        """Return the extension of that kind and name.

        Raises `AmbiguousExtension` where plugins clash over the name, and `UnknownExtension` where
        there is none.
        """
        return self._registered(kind, name).extension

    def load(self, kind: str, name: str) -> Any:
        """Import the extension of that kind and name; see `Registered.load`.

        Raises `AmbiguousExtension` and `UnknownExtension` as `extension` does.
        """
        return self._registered(kind, name).load()

    def clash(self, kind: str, name: str) -> AmbiguousExtension | None:
        """Return the error that tells of a name over which plugins clash; else `None`."""
        found = _decide(self._plugins).clashing.get((asked_as(kind), name))
        return AmbiguousExtension(kind, name, *found) if found else None

    def _registered(self, kind: str, name: str) -> Registered:
        known = self.extensions(kind)
        if name in known:
            return known[name]
        if clash := self.clash(kind, name):
            raise clash
        detail = ""
        if owner := RESERVED.get((kind, name)):
            ours = (each for each in self._problems if _is_of(owner, each))
            detail = " ".join(map(str, ours))
            if not detail and any(_is_of(owner, each) for each in find_installed()[0]):
                detail = (
                    f"{owner} is installed and was not loaded. "
                    f"See the environment variables {ONLY_VARIABLE} and {BLOCK_VARIABLE}."
                )
        raise UnknownExtension(kind, name, tuple(known), detail)

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin by hand: a module, or an object whose methods implement hooks.

        Raises `PluginError`, and changes nothing, where it breaks the contract or a name of it is
        taken.
        """
        name = str(name or getattr(plugin, "__name__", None) or id(plugin))
        new = _Plugin(name, plugin, ask(plugin, name), None)
        with lock:
            self._add(new)

    def _add(self, new: _Plugin) -> None:
        """Add a plugin; raise `PluginError` where it cannot be. Call with the lock."""
        for each in self._plugins:
            if each.code is new.code or (new.key is None and each.name == new.name):
                cause = f"it, or another of its name, is registered already, as {each.name!r}."
                raise PluginError(new.name, cause)
        for offer in new.extensions if new.key is None else ():
            for old in _decide(self._plugins).offered.get((asked_as(offer.kind), offer.name), ()):
                raise PluginError(new.name, f"{_alike(offer, old)}.")
        self._plugins = (*self._plugins, new)

    def unregister(self, name: str) -> bool:
        """Take out the plugin of that name and all it offers; `False` if it was not there."""
        with lock:
            before = self._plugins
            self._plugins = tuple(each for each in before if each.name != name)
            return len(self._plugins) < len(before)

    def load_entry_points(self) -> tuple[PluginProblem, ...]:
        """Load the installed plugins that were not tried before, sorted, one at a time.

        Returns what went wrong with them, which `problems` keeps too. What the environment
        variables `TENTERHOOK_PLUGINS` and `TENTERHOOK_BLOCK_PLUGINS` keep out is not imported.
        Raises `BrokenPlugins` in strict mode, once the others are loaded, whoever found what is
        wrong. Of threads that call this at once each waits for what the others import, as every
        import does, and one of them returns each problem; a plugin that calls it while it is
        imported finds what is there so far.
        """
        self._follows_installed = True
        importlib.invalidate_caches()
        found, problems = find_installed()
        wanted = [each for each in found if each.wanted()]
        for each in wanted:
            if each.key not in self._tried:
                self._load(each)
        with lock:
            problems += filter(None, self._tried.values())
            problems += _decide(self._plugins).problems
            fresh = tuple(dict.fromkeys(each for each in problems if each not in self._problems))
            self._problems += fresh
            self._is_due &= not all(each.key in self._tried for each in wanted)  # half imported
            known = self._problems
        if known and self.strict:
            raise BrokenPlugins(known)
        return fresh

    def _load(self, each: InstalledPlugin) -> None:
        """Import a plugin and ask it; note in `_tried` how that went."""
        name = each.entry_point.name
        try:
            with prints_to_stderr():
                code = each.entry_point.load()
                if _half_imported(each.entry_point.module):
                    return  # whoever imports it, further up or in another thread, loads it
                offers = ask(code, name, each.distribution, each.version)
            with lock:
                if each.key not in self._tried:  # or another thread was faster
                    self._add(_Plugin(name, code, offers, each.key))
                    self._tried[each.key] = None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - it is reported, an exit too
            problem = each.problem(error)
            if not _half_imported(each.entry_point.module):
                with lock:
                    self._tried.setdefault(each.key, problem)

    def refresh(self) -> tuple[PluginProblem, ...]:
        """Look again at what is installed: for a notebook that has just installed something.

        Loads what is new, tries again what failed, and takes out what was uninstalled. Code that
        was imported stays what it was: an upgrade of a plugin in use takes a new process. Returns
        and raises as `load_entry_points` does.
        """
        importlib.invalidate_caches()
        here = {None, *(each.key for each in find_installed()[0] if each.wanted())}
        with lock:
            self._plugins = tuple(each for each in self._plugins if each.key in here)
            self._tried = {
                key: None for key, problem in self._tried.items() if problem is None and key in here
            }
            self._problems = ()
        return self.load_entry_points()


def _half_imported(module: str) -> bool:
    """Say whether a module's import has begun and not ended, as where imports go in a circle.

    Two threads whose imports wait for each other are such a circle: Python gives one of them what
    there is of the other's module.
    """
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return getattr(spec, "_initializing", False) is True


# Kept by the tuple of plugins itself: deciding anew takes hundreds of times as long, and each scope
# over a standard name asks (`benchmarks/bench_tricks.py`). Sixteen, for several managers.
@lru_cache(maxsize=16)
def _decide(plugins: tuple[_Plugin, ...]) -> _Names:
    """Decide which extension serves each name, and what to report."""
    offered: dict[_Place, list[Registered]] = {}
    registered = [each for plugin in plugins for each in plugin.extensions]
    for each in sorted(registered, key=lambda each: (each.distribution or "", each.plugin)):
        offered.setdefault((asked_as(each.kind), each.name), []).append(each)
    by_kind: dict[str, dict[str, Registered]] = {kind: {} for kind in (*KINDS, SCHEMES, "hooks")}
    clashing: dict[_Place, tuple[tuple[str, ...], str]] = {}
    problems: list[PluginProblem] = []
    for place, alike in sorted(offered.items()):
        chosen, why = _chosen(place, alike)
        for each in alike:
            if each not in chosen:
                cause = f"its {named(each.kind, each.name)} has a name {why}. All else works."
                remedy = (
                    "Ask its author for another name, import it from its own package, or set "
                    f"{BLOCK_VARIABLE}={each.distribution}."
                )
                problems.append(_clash(each, cause, remedy))
        owners = {each.origin: each for each in chosen}  # one of each plugin
        if len(owners) < 2:
            for each in chosen:
                by_kind[each.kind][each.name] = by_kind[place[0]][each.name] = each
            continue
        blocks = " or ".join(f"{BLOCK_VARIABLE}={each.distribution}" for each in owners.values())
        remedy = f"Import it from its own package, uninstall all but one, or set {blocks}."
        clashing[place] = tuple(owners), remedy
        first, *others = owners.values()
        for each in others:
            cause = f"{_alike(each, first)}, and the name serves neither. All else of both works."
            problems.append(_clash(each, cause, remedy))
    return _Names(by_kind, offered, clashing, tuple(problems))


def _chosen(place: _Place, alike: list[Registered]) -> tuple[list[Registered], str]:
    """Return those that may serve, and why the others may not."""
    if by_hand := [each for each in alike if each.distribution is None]:
        return by_hand, "that the program registered by hand, which it serves"
    if owner := RESERVED.get(place):
        return [each for each in alike if _is_of(owner, each)], f"that is reserved for {owner}"
    return alike, ""


def _is_of(distribution: str, each: Registered | InstalledPlugin | PluginProblem) -> bool:
    return normal_name(each.distribution or "") == distribution


def _alike(each: Registered, old: Registered) -> str:
    return f"its {named(each.kind, each.name)} has the name of {old.what}"


def _clash(each: Registered, cause: str, remedy: str) -> PluginProblem:
    return PluginProblem(each.plugin, each.distribution, each.version, cause, remedy, clashes=True)
