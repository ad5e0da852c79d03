"""The plugins that are installed: read from the metadata of distributions, imported by `load`."""

import os
import re
from collections.abc import Collection
from importlib import metadata

import attrs

from tenterhook.plugins._problems import PluginError, PluginProblem

ENTRY_POINT_GROUP = "tenterhook.plugins"

ONLY_VARIABLE = "TENTERHOOK_PLUGINS"
"""Environment variable: load these plugins and no others; empty loads none."""

BLOCK_VARIABLE = "TENTERHOOK_BLOCK_PLUGINS"
"""Environment variable: never import these plugins."""


@attrs.frozen
class InstalledPlugin:
    """An entry point of ours, and the distribution that has it."""

    entry_point: metadata.EntryPoint
    distribution: str
    version: str

    @property
    def key(self) -> tuple[str, str]:
        """What it is sorted and told apart by."""
        return normal_name(self.distribution), self.entry_point.name

    def called(self, names: Collection[str]) -> bool:
        """Say whether its distribution or its entry point is among the names."""
        return any(normal_name(own) in names for own in (self.distribution, self.entry_point.name))

    def wanted(self) -> bool:
        """Say whether the environment variables let it be imported."""
        only, blocked = _names_in(ONLY_VARIABLE), _names_in(BLOCK_VARIABLE)
        return (only is None or self.called(only)) and not self.called(blocked or ())

    def problem(self, error: BaseException) -> PluginProblem:
        """Say that it was left out because of the error."""
        name, module = self.entry_point.name, self.entry_point.module
        if isinstance(error, PluginError):
            cause = error.cause
        elif isinstance(error, SystemExit):
            cause = f"it called sys.exit({error.code!r})."
        else:
            cause = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".") + "."
        remedy = (
            f"See `python -c 'import {module}'`, update or uninstall {self.distribution}, "
            f"or set {BLOCK_VARIABLE}={name}."
        )
        return PluginProblem(
            entry_point=name,
            distribution=self.distribution,
            version=self.version,
            cause=cause,
            remedy=remedy,
        )


def find_installed() -> tuple[list[InstalledPlugin], list[PluginProblem]]:
    """Read the entry points of our group, sorted by distribution and name, without importing any.

    A distribution found twice counts once, where Python would import it from.
    """
    found: dict[tuple[str, str], InstalledPlugin] = {}
    problems = []
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            entry_points = distribution.entry_points.select(group=ENTRY_POINT_GROUP)
            if not entry_points:
                continue
            name, version = distribution.metadata["Name"], distribution.version
            if normal_name(name) not in seen:
                seen.add(normal_name(name))
                for entry_point in entry_points:
                    each = InstalledPlugin(entry_point, name, version)
                    found.setdefault(each.key, each)
        except Exception as error:  # noqa: BLE001 - it is reported
            problems.append(_unreadable(distribution, error))
    return [found[key] for key in sorted(found)], problems


def _unreadable(distribution: metadata.Distribution, error: Exception) -> PluginProblem:
    place = distribution.locate_file("")
    return PluginProblem(
        entry_point=None,
        distribution=None,
        version=None,
        cause=f"the metadata of a distribution in {place} cannot be read "
        f"({type(error).__name__}: {error}).",
        remedy="Run `pip check` and install that distribution again.",
    )


def names_not_installed(found: Collection[InstalledPlugin]) -> list[PluginProblem]:
    """Complain of names in `TENTERHOOK_PLUGINS` that nothing installed has."""
    return [
        PluginProblem(
            entry_point=name,
            distribution=None,
            version=None,
            cause=f"{ONLY_VARIABLE} names it, and it is not installed.",
            remedy=f"Install it, or take it out of {ONLY_VARIABLE}.",
        )
        for name in sorted(_names_in(ONLY_VARIABLE) or ())
        if not any(each.called({name}) for each in found)
    ]


def _names_in(variable: str) -> set[str] | None:
    """Return the comma-separated names in an environment variable; `None` where it is not set."""
    value = os.environ.get(variable)
    if value is None:
        return None
    return {normal_name(name) for name in value.split(",") if name.strip()}


def normal_name(name: str) -> str:
    """Return the name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
