"""The plugins of a program and what they offer."""

import importlib
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from tenterhook.extensions import Extension
from tenterhook.hookspecs import KINDS
from tenterhook.one_line import exact
from tenterhook.plugins.asking import Offers, ask, share_a_name
from tenterhook.plugins.entry_points import (
    InstalledPlugin,
    find_installed,
    names_not_installed,
)
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
from tenterhook.plugins.serving import Serving
from tenterhook_cli.words import COMMANDS


@attrs.frozen(eq=False)
class _Plugin:
    """A plugin that is registered."""

    name: str
    code: object
    extensions: tuple[Registered, ...]
    key: tuple[str, str] | None
    """What an installed plugin is told apart by; `None` for one registered by hand."""


class PluginManager:
    """The plugins of one program: those installed, and those registered by hand.

    `autoload=True` loads the installed ones at once. Managers share nothing with each other.
    Any thread may call any method; readers take no lock, and none is held while a plugin's code
    runs. With `strict=True` an installed plugin that is broken or clashes with another raises
    `BrokenPlugins`, when all were tried, instead of being reported.
    """

    def __init__(self, *, autoload: bool = True, strict: bool = False) -> None:
        self.strict = strict
        self._lock = threading.Lock()
        """For changes of what follows. A plugin's import may wait for another thread's, and that
        for us: whoever runs a plugin's code holds no lock."""
        self._plugins: tuple[_Plugin, ...] = ()
        self._served: tuple[object, Serving] = ((), Serving.of(()))
        """Some plugins and what they serve: it is made when somebody asks."""
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

        Without names over which plugins clash: see `extension`.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is no kind of extension. Use one of {list(KINDS)}.")
        return self._serving().by_kind[kind]

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
        return self._serving().ambiguous(kind, name)

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
        name = exact(name)
        offers = ask(plugin, name)
        with self._lock:
            if any(each.name == name for each in self._plugins):
                raise PluginError(name, "a plugin of its name is registered already.")
            self._check_new(plugin, name)
            self._check_taken(name, offers)
            self._keep((*self._plugins, _plugin(plugin, name, offers)))

    def unregister(self, name: str) -> bool:
        """Take out the plugin of that name and all it offers; `False` if it was not there."""
        with self._lock:
            return self._keep(tuple(each for each in self._plugins if each.name != name))

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
        with _filters_kept():
            for each in found:
                if each.key not in self._tried and each.wanted():
                    self._load(each, found)
        with self._lock:
            problems += filter(None, self._tried.values())
            problems += self._serving().problems
            fresh = tuple(dict.fromkeys(each for each in problems if each not in self._problems))
            self._problems += fresh
            self._tried_all = all(each.key in self._tried for each in found if each.wanted())
            known = self._problems
        if known and self.strict:
            raise BrokenPlugins(known)
        return fresh

    def _load(self, each: InstalledPlugin, found: list[InstalledPlugin]) -> None:
        """Import a plugin and ask it; note in `_tried` how that went."""
        name = each.entry_point.name
        try:
            code = each.entry_point.load()
            if _half_imported(each.entry_point.module):
                return  # whoever imports it, further up or in another thread, loads it
            offers = ask(code, name)
            with self._lock:
                if each.key not in self._tried:  # or another thread was faster
                    self._check_new(code, name)
                    self._keep((*self._plugins, _plugin(code, name, offers, each)))
                    self._tried[each.key] = None
            return
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - it is reported
            problem = each.problem(error, found)
        with self._lock:
            if not _half_imported(each.entry_point.module):
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
        with self._lock:
            self._keep(
                tuple(each for each in self._plugins if each.key is None or each.key in here)
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

    def _check_taken(self, name: str, offers: Offers) -> None:
        """Raise `PluginError` where another has a name that would be served; call with the lock."""
        for kind, extension in offers:
            what = f"its {singular(kind)} {extension.name!r}"
            if kind == "commands" and extension.name in COMMANDS:
                own = "is one of tenterhook's own. Give it another name."
                raise PluginError(name, f"{what} {own}")
            for old in (old for plugin in self._plugins for old in plugin.extensions):
                if share_a_name(kind, extension, old.kind, old.extension):
                    raise PluginError(
                        name, f"{what} has the name of {one_of(old.kind)} of {old.origin}."
                    )

    def _keep(self, plugins: tuple[_Plugin, ...]) -> bool:
        """Have these be the plugins; say whether that is a change. Call with the lock."""
        changed = len(plugins) != len(self._plugins)
        self._plugins = plugins
        return changed

    def _serving(self) -> Serving:
        """Return what names give now; with and without the lock."""
        plugins = self._plugins
        served_for, serving = self._served
        if served_for is not plugins:
            serving = Serving.of(each for plugin in plugins for each in plugin.extensions)
            self._served = plugins, serving
        return serving


def _plugin(
    code: object, name: str, offers: Offers, installed: InstalledPlugin | None = None
) -> _Plugin:
    extensions = tuple(
        Registered(
            extension=extension,
            kind=kind,
            plugin=name,
            distribution=installed.distribution if installed else None,
            version=installed.version if installed else None,
        )
        for kind, extension in offers
    )
    return _Plugin(name, code, extensions, installed.key if installed else None)


def _half_imported(module: str) -> bool:
    """Say whether a module's import has begun and not ended, as where imports go in a circle.

    Two threads whose imports wait for each other are such a circle: Python gives one of them what
    there is of the other's module.
    """
    try:
        spec = getattr(sys.modules.get(module), "__spec__", None)
        return getattr(spec, "_initializing", False) is True
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - an object of its own stands for the module
        return False


_filters_lock = threading.Lock()
_loading = 0
_filters = warnings.catch_warnings()


@contextmanager
def _filters_kept() -> Iterator[None]:
    """Undo what plugins do to the filters of warnings, when the last thread that loads is done."""
    global _loading, _filters
    with _filters_lock:
        if not _loading:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
        _loading += 1
    try:
        yield
    finally:
        with _filters_lock:
            _loading -= 1
            if not _loading:
                _filters.__exit__(None, None, None)
