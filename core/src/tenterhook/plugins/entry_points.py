"""The plugins that are installed: read from the metadata of distributions, imported by `load`."""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import attrs

from tenterhook.one_line import exact, printable, said, shown, type_name
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

    def problem(self, error: BaseException, found: "Collection[InstalledPlugin]") -> PluginProblem:
        """Say that it was left out because of the error.

        Where another of those found has an entry point of that name, its distribution's name
        blocks it alone.
        """
        try:
            cause, repair = self._cause(error), self._repair(error)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - the error is of the plugin's own kind
            cause, repair = f"{type_name(error)}.", self._look()
        return PluginProblem(
            entry_point=self.entry_point.name,
            distribution=self.distribution,
            version=self.version,
            cause=cause,
            remedy=f"{repair}, or set {BLOCK_VARIABLE}={self.word(found)}.",
        )

    def word(self, found: "Collection[InstalledPlugin]") -> str:
        """Return what names it, and of those found no other where that can be."""
        name = normal_name(self.entry_point.name)
        alike = [other for other in found if other.called({name})]
        return self.distribution if len(alike) > 1 else self.entry_point.name

    def _cause(self, error: BaseException) -> str:
        if type(error) is PluginError:
            return printable(f"{error.cause}")
        if isinstance(error, SystemExit):
            return f"it called sys.exit({shown(error.code)})."
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
        return self._look()

    def _look(self) -> str:
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
    problems: list[PluginProblem] = []
    seen: dict[str, metadata.Distribution] = {}
    for distribution in _distributions(problems):
        try:
            entry_points = distribution.entry_points.select(group=ENTRY_POINT_GROUP)
            if not entry_points:
                continue
            name = _printed("name", distribution.metadata["Name"])
            version = _printed("version", distribution.metadata["Version"])
            first = seen.setdefault(normal_name(name), distribution)
            if first is not distribution:
                problems += _twice(first, distribution, entry_points)
                continue
            folder = _editable_folder(distribution)
            for entry_point in entry_points:
                each = InstalledPlugin(entry_point, name, version, folder)
                if _can_be_loaded(entry_point):
                    found.setdefault(each.key, each)
                else:
                    problems.append(_odd(each))
        except Exception as error:  # noqa: BLE001 - it is reported
            problems.append(_unreadable(distribution, error))
    return [found[key] for key in sorted(found)], problems


def _distributions(problems: list[PluginProblem]) -> Iterator[metadata.Distribution]:
    """Yield what is installed; where somebody's import hook fails at that, note it and stop."""
    try:
        yield from metadata.distributions()
    except Exception as error:  # noqa: BLE001 - it is reported
        problems.append(
            PluginProblem(
                entry_point=None,
                distribution=None,
                version=None,
                cause=f"listing what is installed failed ({said(error)}), and may be incomplete.",
                remedy="Look for an import hook in sys.meta_path that a package has put there.",
            )
        )


def _printed(what: str, value: object) -> str:
    """Return a name or version as text; raise `ValueError` for what cannot be one."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"its {what} is {shown(value)}")
    return exact(value)


def _can_be_loaded(entry_point: metadata.EntryPoint) -> bool:
    name, target = entry_point.name, re.sub(r"\s*\[.*\]\s*$", "", entry_point.value)
    parts = target.replace(":", ".", 1).split(".")
    return name.isprintable() and all(part.strip().isidentifier() for part in parts)


def _odd(plugin: InstalledPlugin) -> PluginProblem:
    value = shown(plugin.entry_point.value)
    return PluginProblem(
        entry_point=printable(plugin.entry_point.name),
        distribution=plugin.distribution,
        version=plugin.version,
        cause=f"its entry point {shown(plugin.entry_point.name)} names {value}, which is not "
        "'package.module' under a printable name.",
        remedy=f"Update or uninstall {plugin.distribution}.",
    )


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
        origin = json.loads(text)
        editable = origin.get("dir_info", {}).get("editable", False)
        return url2pathname(urlparse(origin["url"]).path) if editable else None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None  # it only makes messages better


def _unreadable(distribution: metadata.Distribution, error: Exception) -> PluginProblem:
    return PluginProblem(
        entry_point=None,
        distribution=None,
        version=None,
        cause=f"the metadata in {_place(distribution)} cannot be read ({said(error)}).",
        remedy="Install that distribution again, or remove that folder.",
    )


def _place(distribution: metadata.Distribution) -> str:
    try:
        return printable(str(_folder_of(distribution)))
    except Exception:  # noqa: BLE001 - of a distribution that is no folder
        return shown(distribution)


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
