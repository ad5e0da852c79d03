"""The plugins that are installed: read from the metadata of distributions, imported by nobody here.

Metadata can be damaged, stale or there twice, as disks and uninstallers leave it: each such case
becomes a `PluginProblem`, and the rest is read on.
"""

import os
import re
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path

import attrs

from tenterhook.one_line import error_line, printable, shown
from tenterhook.plugins.problems import PluginError, PluginProblem

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

    def problem(self, error: BaseException, found: "Collection[InstalledPlugin]") -> PluginProblem:
        """Say that it was left out because of the error.

        Where another of those found has an entry point of that name, its distribution's name
        blocks it alone.
        """
        repair = f"See `python -c 'import {self.entry_point.module}'`, update or uninstall it"
        if self._is_stale(error):
            cause = f"its metadata names {self.entry_point.value!r}, which is not there."
            repair = (
                "Its metadata is stale: install it again (`pip install --force-reinstall "
                f"{self.distribution}`; `tenterhook plugins doctor` knows more), or uninstall it"
            )
        elif isinstance(error, PluginError):
            cause = error.cause
        elif isinstance(error, SystemExit):
            cause = f"it called sys.exit({shown(error.code)})."
        else:
            cause = f"{error_line(error).rstrip('.')}."
        return self.left_out(cause, f"{repair}, or set {BLOCK_VARIABLE}={self.word(found)}.")

    def left_out(self, cause: str, remedy: str) -> PluginProblem:
        """Return the problem to report of it."""
        name = self.entry_point.name
        return PluginProblem(name, self.distribution, self.version, cause, remedy)

    def word(self, found: "Collection[InstalledPlugin]") -> str:
        """Return what names it, and of those found no other where that can be."""
        name = normal_name(self.entry_point.name)
        alike = [other for other in found if other.called({name})]
        return self.distribution if len(alike) > 1 else self.entry_point.name

    def _is_stale(self, error: BaseException) -> bool:
        """Say whether the error is that the entry point's own module or attribute is missing."""
        if isinstance(error, ModuleNotFoundError):
            return f"{self.entry_point.module}.".startswith(f"{error.name}.")
        attribute = (self.entry_point.attr or "").partition(".")[0]
        return isinstance(error, AttributeError) and error.name == attribute != ""


def find_installed() -> tuple[list[InstalledPlugin], list[PluginProblem]]:
    """Read the entry points of our group, sorted by distribution and name, without importing any.

    A distribution found twice counts once, where Python would import it from.
    """
    found: dict[tuple[str, str], InstalledPlugin] = {}
    problems: list[PluginProblem] = []
    seen: dict[str, metadata.Distribution] = {}
    for distribution in _distributions(problems):
        try:
            for each in distribution.entry_points.select(group=ENTRY_POINT_GROUP):
                name, version = distribution.metadata["Name"], distribution.metadata["Version"]
                if not name or not version:
                    raise ValueError(f"its name is {name!r} and its version {version!r}")
                plugin = InstalledPlugin(each, name, version)
                first = seen.setdefault(normal_name(name), distribution)
                if first is not distribution:
                    problems += _twice(plugin, first, distribution)
                elif each.pattern.match(each.value):
                    found.setdefault(plugin.key, plugin)
                else:
                    cause = f"its entry point names {shown(each.value)}, and no module."
                    problems.append(plugin.left_out(cause, f"Update or uninstall {name}."))
        except Exception as error:  # noqa: BLE001 - it is reported
            where = printable(str(_folder_of(distribution)))
            cause = f"the metadata in {where} cannot be read ({error_line(error)})."
            remedy = "Install that distribution again, or remove that folder."
            problems.append(PluginProblem(None, None, None, cause, remedy))
    return [found[key] for key in sorted(found)], problems


def _distributions(problems: list[PluginProblem]) -> Iterator[metadata.Distribution]:
    """Yield what is installed; where somebody's import hook fails at that, note it and stop."""
    try:
        yield from metadata.distributions()
    except Exception as error:  # noqa: BLE001 - it is reported
        cause = f"listing what is installed failed ({error_line(error)}), and may be incomplete."
        remedy = "Look for an import hook in sys.meta_path that a package has put there."
        problems.append(PluginProblem(None, None, None, cause, remedy))


def _twice(
    plugin: InstalledPlugin, first: metadata.Distribution, other: metadata.Distribution
) -> list[PluginProblem]:
    """Report metadata that another copy of the distribution hides.

    Not one folder that is on the path twice, nor the `.egg-info` that setuptools leaves beside
    the sources of an editable install: those say the same.
    """
    here, there = _folder_of(first), _folder_of(other)
    alike = first.version == other.version
    if here == there or (alike and ".egg-info" in (here.suffix, there.suffix)):
        return []
    cause = f"its metadata in {there} comes after that of {first.version} in {here}."
    remedy = f"Run `pip uninstall {plugin.distribution}` until it is gone, and install it once."
    return [plugin.left_out(cause, remedy)]


def _folder_of(distribution: metadata.Distribution) -> Path:
    return Path(str(getattr(distribution, "_path", distribution.locate_file("")))).resolve()


def names_not_installed(found: Collection[InstalledPlugin]) -> list[PluginProblem]:
    """Complain of names in `TENTERHOOK_PLUGINS` that nothing installed has."""
    cause = f"{ONLY_VARIABLE} names it, and it is not installed."
    remedy = f"Install it, or take it out of {ONLY_VARIABLE}."
    return [
        PluginProblem(name, None, None, cause, remedy)
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
