"""The plugins that are installed: read from the metadata of distributions, imported by nobody here.

Metadata can be damaged, stale or there twice, as disks and uninstallers leave it. What cannot be
read becomes a `PluginProblem`, and the rest is read on; of copies the first counts, as where Python
imports from, and `tenterhook plugins doctor` names the others.
"""

import os
import re
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path

import attrs

from tenterhook.one_line import error_line, printable
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
    folder: Path
    """Where its metadata is."""

    @property
    def key(self) -> tuple[str, str]:
        """What it is sorted and told apart by."""
        return normal_name(self.distribution), self.entry_point.name

    def called(self, names: str) -> bool:
        """Say whether its distribution or its entry point is among names, separated by commas."""
        asked = [normal_name(name) for name in names.split(",")]
        return any(normal_name(own) in asked for own in (self.distribution, self.entry_point.name))

    def wanted(self) -> bool:
        """Say whether the environment variables let it be imported."""
        only, blocked = os.environ.get(ONLY_VARIABLE), os.environ.get(BLOCK_VARIABLE, "")
        return (only is None or self.called(only)) and not self.called(blocked)

    def problem(self, error: BaseException) -> PluginProblem:
        """Say that it was left out because of the error."""
        cause = (
            error.cause if isinstance(error, PluginError) else f"{error_line(error).rstrip('.')}."
        )
        remedy = (
            f"See `python -c 'import {self.entry_point.module}'`; update it, install it again or "
            f"uninstall it, or set {BLOCK_VARIABLE}={self.distribution}."
        )
        name = self.entry_point.name
        return PluginProblem(name, self.distribution, self.version, cause, remedy)


def find_installed() -> tuple[list[InstalledPlugin], list[PluginProblem]]:
    """Find the plugins that are installed, sorted by distribution and name; import none.

    A distribution found twice counts once, where Python would import it from.
    """
    found: dict[tuple[str, str], InstalledPlugin] = {}
    problems: list[PluginProblem] = []
    folders: dict[str, Path] = {}
    for each in read_entry_points(problems):
        if folders.setdefault(each.key[0], each.folder) == each.folder:
            found.setdefault(each.key, each)
    installed = [found[key] for key in sorted(found)]
    return installed, [*problems, *_not_installed(installed)]


def read_entry_points(problems: list[PluginProblem]) -> Iterator[InstalledPlugin]:
    """Yield the entry points of our group as Python would find them, those of copies too.

    What cannot be read is added to the problems.
    """
    for distribution in _distributions(problems):
        place = getattr(distribution, "_path", distribution.locate_file(""))
        try:
            for each in distribution.entry_points.select(group=ENTRY_POINT_GROUP):
                name, version = distribution.metadata["Name"], distribution.metadata["Version"]
                if not (name and version and each.pattern.match(each.value)):
                    raise ValueError(f"{each.name!r} of {name!r} {version!r} is {each.value!r}")
                yield InstalledPlugin(each, name, version, Path(str(place)).resolve())
        except Exception as error:  # noqa: BLE001 - it is reported
            cause = f"the metadata in {printable(str(place))} cannot be read ({error_line(error)})."
            remedy = "Install that distribution again, or remove that folder."
            problems.append(PluginProblem(None, None, None, cause, remedy))


def _distributions(problems: list[PluginProblem]) -> Iterator[metadata.Distribution]:
    """Yield what is installed; where somebody's import hook fails at that, note it and stop."""
    try:
        yield from metadata.distributions()
    except Exception as error:  # noqa: BLE001 - it is reported
        cause = f"listing what is installed failed ({error_line(error)}), and may be incomplete."
        remedy = "Look for an import hook in sys.meta_path that a package has put there."
        problems.append(PluginProblem(None, None, None, cause, remedy))


def _not_installed(found: Collection[InstalledPlugin]) -> Iterator[PluginProblem]:
    """Complain of names in `TENTERHOOK_PLUGINS` that nothing installed has."""
    cause = f"{ONLY_VARIABLE} names it, and it is not installed."
    remedy = f"Install it, or take it out of {ONLY_VARIABLE}."
    for name in sorted({each.strip() for each in os.environ.get(ONLY_VARIABLE, "").split(",")}):
        if name and not any(each.called(name) for each in found):
            yield PluginProblem(name, None, None, cause, remedy)


def normal_name(name: str) -> str:
    """Return the name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
