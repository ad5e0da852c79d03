"""Names with a scheme, as `tiny:sample`: which plugin serves them."""

import re
from collections.abc import Collection
from pathlib import Path

from tenterhook.errors import TenterhookError, closest
from tenterhook.plugins import Registered, default_manager
from tenterhook.plugins.first_party import FIRST_PARTY

DEFAULT = "hf"
"""Serves names without a scheme: those of the Hugging Face hub, and folders."""

# Two letters at least: `C:` is a drive.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(.*)", re.DOTALL)


class UnknownScheme(TenterhookError, LookupError):
    """No plugin serves the scheme of a name."""

    def __init__(self, kind: str, name: str, scheme: str, known: Collection[str]) -> None:
        super().__init__(kind, name, scheme, known)
        self.kind, self.name, self.scheme, self.known = kind, name, scheme, tuple(known)

    def __str__(self) -> str:
        close = closest(self.scheme, self.known)
        hint = f"Did you mean '{close[0]}:'?" if close else "See `tenterhook plugins list`."
        hint += f" For that name on the hub write 'hf:{self.name}'."
        return (
            f"No installed plugin has {self.kind} named '{self.scheme}:', as {self.name!r}. {hint}"
        )


class MissingPlugin(TenterhookError, ImportError, LookupError):
    """A first-party plugin serves the name and is not there."""

    def __init__(self, kind: str, name: str, distribution: str, problem: str = "") -> None:
        super().__init__(kind, name, distribution, problem)
        self.kind, self.shown, self.distribution = kind, name, distribution
        self.problem = problem

    def __str__(self) -> str:
        why = self.problem or f"Install it: `pip install {self.distribution}`."
        reads = f"{self.distribution}, which reads {self.kind} and is missing"
        return f"{self.shown!r} needs {reads}. {why}"


def split_scheme(name: str) -> tuple[str | None, str]:
    """Return the scheme, `None` where there is none, and the rest of a name."""
    found = _SCHEME.fullmatch(name)
    return (found[1], found[2]) if found else (None, name)


def absolute_name(name: str) -> str:
    """Return a name that means the same in any working folder: paths that are there, absolute."""
    scheme, rest = split_scheme(name)
    if scheme is not None and not Path(name).exists():
        path = Path(rest).expanduser()
        return (
            f"{scheme}:{path.absolute()}" if rest and scheme == DEFAULT and path.is_dir() else name
        )
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def serving(kind: str, name: str) -> tuple[Registered, str]:
    """Return what serves a name of `"loaders"` or `"datasets"`, and what to hand it.

    Raises `UnknownScheme`, `AmbiguousExtension` where plugins clash over the scheme, or
    `MissingPlugin` where one of ours would serve it.
    """
    scheme, rest = split_scheme(name)
    manager = default_manager()
    known = manager.extensions(kind)
    wanted = scheme or DEFAULT
    said = {"loaders": "models", "datasets": "data"}[kind]
    if wanted in known:
        return known[wanted], rest
    if clash := manager.clash(kind, wanted):
        raise clash
    if distribution := FIRST_PARTY[kind].get(wanted):
        broken = [str(each) for each in manager.problems if each.distribution == distribution]
        raise MissingPlugin(said, name, distribution, " ".join(broken))
    raise UnknownScheme(said, name, wanted, tuple(known))
