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
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from tenterhook.extensions import Extension
from tenterhook.hookspecs import KINDS, SCHEMES
from tenterhook.plugins.asking import Offers, ask
from tenterhook.plugins.entry_points import (
    BLOCK_VARIABLE,
    InstalledPlugin,
    find_installed,
    names_not_installed,
    normal_name,
)
from tenterhook.plugins.first_party import RESERVED, served_as
from tenterhook.plugins.locking import lock
from tenterhook.plugins.printing import prints_to_stderr
from tenterhook.plugins.problems import (
    AmbiguousExtension,
    BrokenPlugins,
    PluginError,
    PluginProblem,
    UnknownExtension,
    one_of,
    singular,
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
    """Kind to name to extension, sorted by name."""
    offered: Mapping[_Place, Sequence[Registered]]
    clashing: Mapping[_Place, Sequence[Registered]]
    """One extension of each plugin that offers it; none of them is served."""
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
        self._decided: tuple[object, _Names] = ((), _decide(()))
        """Some plugins and what their names give: it is made when somebody asks."""
        self._problems: tuple[PluginProblem, ...] = ()
        self._tried: dict[tuple[str, str], PluginProblem | None] = {}
        """The installed plugins, by what they are told apart by: why each was left out, if so."""
        self._follows_installed = False
        self._tried_all = False
        """Whether the last look tried all that is wanted: none was half imported."""
        if autoload:
            self.load_entry_points()

    @property
    def problems(self) -> tuple[PluginProblem, ...]:
        """What is wrong with the installed plugins: those left out, and those that clash."""
        return self._problems

    def extensions(self, kind: str) -> Mapping[str, Registered]:
        """Return what plugins offer of one kind, by name, sorted.

        Without names over which plugins clash: see `extension`. `kind="schemes"` gives the stores
        by the URL schemes that they serve.
        """
        if kind not in (*KINDS, SCHEMES):
            raise ValueError(f"kind={kind!r} is no kind of extension. Use one of {list(KINDS)}.")
        return self._names().by_kind.get(kind, {})

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
        alike = self._names().clashing.get((served_as(kind), name))
        if alike is None:
            return None
        return AmbiguousExtension(
            kind, name, tuple(each.origin for each in alike), _way_out(*alike[:2])
        )

    def _registered(self, kind: str, name: str) -> Registered:
        known = self.extensions(kind)
        if name in known:
            return known[name]
        raise self.clash(kind, name) or UnknownExtension(kind, name, tuple(known))

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin by hand: a module, or an object whose methods implement hooks.

        Raises `PluginError`, and changes nothing, where it breaks the contract or a name of it is
        taken.
        """
        name = name or getattr(plugin, "__name__", None) or str(id(plugin))
        if not isinstance(name, str):
            raise TypeError(f"name is a {type(name).__name__}. Give text.")
        offers = ask(plugin, name)
        with lock:
            if any(each.name == name for each in self._plugins):
                raise PluginError(name, "a plugin of its name is registered already.")
            self._check_new(plugin, name)
            for kind, asked, _ in offers:
                if old := self._names().offered.get((served_as(kind), asked)):
                    raise PluginError(name, f"its {_taken(kind, asked, old[0])}.")
            self._plugins = (*self._plugins, _plugin(plugin, name, offers))

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
        found, problems = find_installed()
        problems += names_not_installed(found)
        for each in found:
            if each.key not in self._tried and each.wanted():
                self._load(each, found)
        with lock:
            problems += filter(None, self._tried.values())
            problems += self._names().problems
            fresh = tuple(dict.fromkeys(each for each in problems if each not in self._problems))
            self._problems += fresh
            self._tried_all = all(each.key in self._tried for each in found if each.wanted())
            known = self._problems
        if known and self.strict:
            raise BrokenPlugins(known)
        return fresh

    def _load(self, each: InstalledPlugin, found: Collection[InstalledPlugin]) -> None:
        """Import a plugin and ask it; note in `_tried` how that went."""
        name, problem = each.entry_point.name, None
        try:
            with prints_to_stderr():
                code = each.entry_point.load()
                if _half_imported(each.entry_point.module):
                    return  # whoever imports it, further up or in another thread, loads it
                offers = ask(code, name)
            with lock:
                if each.key not in self._tried:  # or another thread was faster
                    self._check_new(code, name)
                    self._plugins = (*self._plugins, _plugin(code, name, offers, each))
                    self._tried[each.key] = None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - it is reported, an exit too
            problem = each.problem(error, found)
        with lock:
            if problem is not None and not _half_imported(each.entry_point.module):
                self._tried.setdefault(each.key, problem)

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
        importlib.invalidate_caches()
        found, _ = find_installed()
        here = {each.key for each in found if each.wanted()}
        with lock:
            self._plugins = tuple(
                each for each in self._plugins if each.key is None or each.key in here
            )
            self._tried = {
                key: None for key, problem in self._tried.items() if problem is None and key in here
            }
            self._problems = ()
        return self.load_entry_points()

    def _check_new(self, code: object, name: str) -> None:
        """Raise `PluginError` where the object is registered; call with the lock."""
        for each in self._plugins:
            if each.code is code:
                raise PluginError(name, f"it is registered already, as {each.name!r}.")

    def _names(self) -> _Names:
        """Return what names give now; with and without the lock."""
        # Kept for as long as the tuple of plugins is the same object: deciding anew takes 340 times
        # as long, and every scope over a standard name asks.
        plugins = self._plugins
        decided_for, names = self._decided
        if decided_for is not plugins:
            names = _decide(each for plugin in plugins for each in plugin.extensions)
            self._decided = plugins, names
        return names


def _plugin(
    code: object, name: str, offers: Offers, installed: InstalledPlugin | None = None
) -> _Plugin:
    release = (installed.distribution, installed.version) if installed else (None, None)
    extensions = tuple(
        Registered(extension, kind, asked, name, *release) for kind, asked, extension in offers
    )
    return _Plugin(name, code, extensions, installed.key if installed else None)


def _half_imported(module: str) -> bool:
    """Say whether a module's import has begun and not ended, as where imports go in a circle.

    Two threads whose imports wait for each other are such a circle: Python gives one of them what
    there is of the other's module.
    """
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return getattr(spec, "_initializing", False) is True


def _decide(registered: Iterable[Registered]) -> _Names:
    """Decide which extension serves each name, and what to report."""
    offered: dict[_Place, list[Registered]] = {}
    ordered = sorted(registered, key=lambda each: (each.distribution or "", each.plugin))
    for each in ordered:
        offered.setdefault((served_as(each.kind), each.name), []).append(each)
    by_kind: dict[str, dict[str, Registered]] = {kind: {} for kind in (*KINDS, SCHEMES)}
    clashing: dict[_Place, Sequence[Registered]] = {}
    problems = _called_alike(ordered)
    for place in sorted(offered):
        chosen, why = _chosen(place, offered[place])
        problems += [_passed_over(each, why) for each in offered[place] if each not in chosen]
        owners = _one_of_each_plugin(chosen)
        if len(owners) > 1:
            clashing[place] = owners
            problems += [_clash(owners[0], each) for each in owners[1:]]
            continue
        for each in chosen:
            by_kind[each.kind][each.name] = each
    return _Names(by_kind, offered, clashing, tuple(problems))


def _chosen(place: _Place, alike: list[Registered]) -> tuple[list[Registered], str]:
    """Return those that may serve, and why the others may not."""
    if by_hand := [each for each in alike if each.distribution is None]:
        return by_hand, "that the program registered by hand, which it serves"
    if owner := RESERVED.get(place):
        ours = [each for each in alike if normal_name(each.distribution or "") == owner]
        return ours, f"that is reserved for {owner}"
    return alike, ""


def _one_of_each_plugin(alike: Iterable[Registered]) -> list[Registered]:
    by_plugin: dict[tuple[str | None, str], Registered] = {}
    for each in alike:
        by_plugin.setdefault((each.distribution, each.plugin), each)
    return list(by_plugin.values())


def _passed_over(each: Registered, why: str) -> PluginProblem:
    return _problem(
        each,
        f"its {singular(each.kind)} {each.name!r} has a name {why}. All else works.",
        "Ask its author for another name, import it from its own package, or set "
        f"{BLOCK_VARIABLE}={each.plugin}.",
    )


def _clash(first: Registered, each: Registered) -> PluginProblem:
    what = _taken(each.kind, each.name, first)
    cause = f"its {what}, and the name serves neither. All else of both works."
    return _problem(each, cause, _way_out(first, each))


def _taken(kind: str, name: str, old: Registered) -> str:
    return f"{singular(kind)} {name!r} has the name of {one_of(old.kind)} of {old.origin}"


def _way_out(one: Registered, other: Registered) -> str:
    # The name of a plugin, or where both have one name, of its distribution.
    blocks = " or ".join(
        f"{BLOCK_VARIABLE}={each.plugin if one.plugin != other.plugin else each.distribution}"
        for each in (one, other)
    )
    return f"Import it from its own package, uninstall one of them, or set {blocks}."


def _called_alike(ordered: Iterable[Registered]) -> list[PluginProblem]:
    """Report plugins of one name; both work, and what names one names both."""
    first: dict[str, Registered] = {}
    return [
        _problem(
            each,
            f"{first[each.plugin].origin} is called so too. Both work, and "
            f"{BLOCK_VARIABLE}={each.plugin} keeps out both.",
            f"Name a distribution there, as {each.distribution}, or ask its author for another "
            "name.",
        )
        for each in _one_of_each_plugin(ordered)
        if first.setdefault(each.plugin, each) is not each
    ]


def _problem(each: Registered, cause: str, remedy: str) -> PluginProblem:
    return PluginProblem(each.plugin, each.distribution, each.version, cause, remedy, clashes=True)
