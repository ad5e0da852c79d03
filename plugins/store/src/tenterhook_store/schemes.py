"""Names with a scheme, as `tiny:sample` or `s3://bucket/runs`: which plugin serves them."""

import os
from pathlib import Path

import attrs

from tenterhook.errors import TenterhookError, closest
from tenterhook.extensions import SCHEME
from tenterhook.hookspecs import SCHEMES
from tenterhook.plugins import RESERVED, Registered, UnknownExtension, default_manager

__all__ = [
    "DEFAULT",
    "MissingPlugin",
    "UnknownScheme",
    "absolute_name",
    "resolve_name",
    "resolve_store",
    "split_scheme",
]

DEFAULT = "hf"
"""Serves names without a scheme: those of the Hugging Face hub, and folders."""


@attrs.define(slots=False)
class UnknownScheme(TenterhookError, LookupError):
    """No plugin serves the scheme of a name."""

    kind: str
    """`"models"`, `"data"` or `"stores"`."""
    name: str
    scheme: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        close = closest(self.scheme, self.known)
        hint = f"Did you mean '{close[0]}:'?" if close else "See `tenterhook plugins list`."
        if self.kind == "stores":
            known = ", ".join(f"{each}:" for each in self.known) or "none"
            hint += f" Known are {known}. For a folder of that name write './{self.name}'."
        else:
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
        why = f" and is missing. Install it: `pip install {self.distribution}`."
        if self.problem:
            why = f". {self.problem}"
        does = "opens" if self.kind == "stores" else "reads"
        return f"{self.shown!r} needs {self.distribution}, which {does} {self.kind}{why}"


def split_scheme(name: str) -> tuple[str | None, str]:
    """Return the scheme, `None` where there is none, and the rest of a name."""
    scheme, colon, rest = name.partition(":")
    return (scheme, rest) if colon and SCHEME.fullmatch(scheme) else (None, name)


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


def resolve_name(kind: str, name: str) -> tuple[Registered, str]:
    """Return what serves a name of `"loaders"` or `"datasets"`, and what to hand it.

    Raises `UnknownScheme`, `AmbiguousExtension` where plugins clash over the scheme, or
    `MissingPlugin` where one of ours would serve it.
    """
    scheme, rest = split_scheme(name)
    return _extension(kind, name, scheme or DEFAULT), rest


def resolve_store(place: str | os.PathLike[str]) -> Registered | None:
    """Return the store that serves a place by its scheme; `None` where it is a path.

    A path that is there is a path, whatever it is called; so is what is no text, and a letter
    before a colon is a drive. Raises as `resolve_name` does.
    """
    scheme = place.partition(":")[0].lower() if isinstance(place, str) and ":" in place else ""
    if not SCHEME.fullmatch(scheme) or os.path.lexists(place):
        return None
    return _extension(SCHEMES, str(place), scheme)


def _extension(kind: str, name: str, scheme: str) -> Registered:
    manager = default_manager()
    known = manager.extensions(kind)
    if scheme in known:
        return known[scheme]
    if clash := manager.clash(kind, scheme):
        raise clash
    what = {"loaders": "models", "datasets": "data", SCHEMES: "stores"}[kind]
    if distribution := RESERVED.get((kind, scheme)):
        why = ""
        try:
            manager.extension(kind, scheme)
        except UnknownExtension as error:  # it looks whether the plugin is installed and kept out
            why = error.detail
        raise MissingPlugin(what, name, distribution, why)
    raise UnknownScheme(what, name, scheme, tuple(known))
