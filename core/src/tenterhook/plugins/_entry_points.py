"""The plugins that are installed: read from the metadata of distributions, imported by `load`."""

import json
import os
import re
from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import attrs

from tenterhook.plugins._problems import PluginError, PluginProblem, said

ENTRY_POINT_GROUP = "tenterhook.plugins"

ONLY_VARIABLE = "TENTERHOOK_PLUGINS"
"""Environment variable: load these plugins and no others; empty loads none."""

BLOCK_VARIABLE = "TENTERHOOK_BLOCK_PLUGINS"
"""Environment variable: never import these plugins."""

STRICT_VARIABLE = "TENTERHOOK_STRICT_PLUGINS"
"""Environment variable: `1` has what is wrong with a plugin raise instead of warn."""


@attrs.frozen
class InstalledPlugin:
    """An entry point of ours, and the distribution that has it."""

    entry_point: metadata.EntryPoint
    distribution: str
    version: str
    folder: str | None = None
    """Where its sources are, if it is installed as editable."""

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

    def problem(self, error: BaseException, *, shares_name: bool = False) -> PluginProblem:
        """Say that it was left out because of the error.

        Where another distribution has an entry point of that name, its own name blocks it alone.
        """
        name = self.entry_point.name
        blocked = self.distribution if shares_name else name
        return PluginProblem(
            entry_point=name,
            distribution=self.distribution,
            version=self.version,
            cause=self._cause(error),
            remedy=f"{self._repair(error)}, or set {BLOCK_VARIABLE}={blocked}.",
        )

    def _cause(self, error: BaseException) -> str:
        if isinstance(error, PluginError):
            return error.cause
        if isinstance(error, SystemExit):
            return f"it called sys.exit({error.code!r})."
        if self._is_stale(error):
            gone = self.folder is not None and not Path(self.folder).is_dir()
            where = f", because its folder {self.folder} is gone" if gone else ""
            return f"its metadata names {self.entry_point.value!r}, which is not there{where}."
        return f"{said(error).rstrip('.')}."

    def _repair(self, error: BaseException) -> str:
        if self._is_stale(error):
            folder = self.folder is not None and Path(self.folder).is_dir()
            again = f"-e {self.folder}" if folder else f"--force-reinstall {self.distribution}"
            return (
                f"Its metadata is stale: install it again (`pip install {again}`), or uninstall it"
            )
        module = self.entry_point.module
        return f"See `python -c 'import {module}'`, update or uninstall {self.distribution}"

    def _is_stale(self, error: BaseException) -> bool:
        """Say whether the error is that the entry point's own module or attribute is missing."""
        if isinstance(error, ModuleNotFoundError) and error.name:
            return f"{self.entry_point.module}.".startswith(f"{error.name}.")
        attribute = (self.entry_point.attr or "").partition(".")[0]
        return isinstance(error, AttributeError) and bool(attribute) and error.name == attribute


def find_installed() -> tuple[list[InstalledPlugin], list[PluginProblem]]:
    """Read the entry points of our group, sorted by distribution and name, without importing any.

    A distribution found twice counts once, where Python would import it from.
    """
    found: dict[tuple[str, str], InstalledPlugin] = {}
    problems = []
    seen: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        try:
            entry_points = distribution.entry_points.select(group=ENTRY_POINT_GROUP)
            if not entry_points:
                continue
            name, version = distribution.metadata["Name"], distribution.version
            first = seen.setdefault(normal_name(name), distribution)
            if first is not distribution:
                problems += _twice(first, distribution, entry_points)
                continue
            folder = _editable_folder(distribution)
            for entry_point in entry_points:
                each = InstalledPlugin(entry_point, name, version, folder)
                found.setdefault(each.key, each)
        except Exception as error:  # noqa: BLE001 - it is reported
            problems.append(_unreadable(distribution, error))
    return [found[key] for key in sorted(found)], problems


def _twice(
    first: metadata.Distribution,
    other: metadata.Distribution,
    entry_points: Iterable[metadata.EntryPoint],
) -> list[PluginProblem]:
    """Report metadata that another copy of the distribution hides.

    Not one folder that is on the path twice, nor the `.egg-info` that setuptools leaves beside
    the sources of an editable install: those say the same.
    """
    here, there = _folder_of(first), _folder_of(other)
    alike = first.version == other.version
    if here == there or (alike and ".egg-info" in (here.suffix, there.suffix)):
        return []
    name = other.metadata["Name"]
    return [
        PluginProblem(
            entry_point=", ".join(sorted(each.name for each in entry_points)),
            distribution=name,
            version=other.version,
            cause=f"its metadata in {there} comes after that of {first.version} in {here}.",
            remedy=f"Run `pip uninstall {name}` until it is gone, and install it once.",
        )
    ]


def _folder_of(distribution: metadata.Distribution) -> Path:
    return Path(str(getattr(distribution, "_path", distribution.locate_file("")))).resolve()


def _editable_folder(distribution: metadata.Distribution) -> str | None:
    """Return where an editable install's sources are, as PEP 610 has it."""
    text = distribution.read_text("direct_url.json")
    if text is None:
        return None
    try:
        said = json.loads(text)
        editable = said.get("dir_info", {}).get("editable", False)
        return url2pathname(urlparse(said["url"]).path) if editable else None
    except (ValueError, KeyError, AttributeError):
        return None  # it only makes messages better


def _unreadable(distribution: metadata.Distribution, error: Exception) -> PluginProblem:
    place = distribution.locate_file("")
    return PluginProblem(
        entry_point=None,
        distribution=None,
        version=None,
        cause=f"the metadata of a distribution in {place} cannot be read ({said(error)}).",
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
