"""What `tenterhook plugins doctor` finds out: each plugin imported in a process of its own.

A plugin that ends or hangs its process is found so, and kept out of ours.
"""

import json
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import attrs

from tenterhook.one_line import shown
from tenterhook.plugins import (
    BLOCK_VARIABLE,
    ENTRY_POINT_GROUP,
    ONLY_VARIABLE,
    PluginManager,
    using,
)
from tenterhook.plugins.entry_points import (
    InstalledPlugin,
    find_installed,
    normal_name,
    read_entry_points,
)
from tenterhook_cli.command_line import COMMANDS
from tenterhook_cli.plugin_commands import misplaced, stdout_to_stderr

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pandas",
    "zarr",
    "datasets",
    "pyarrow",
    "scipy",
    "sklearn",
    "matplotlib",
    "tensorflow",
    "jax",
    "ray",
)
"""Packages that take long to import and that no list of plugins needs."""

SLOW = 0.1
"""Seconds of import that are too many for a module that only declares."""

TIMEOUT = 60.0
"""Seconds after which an import hangs."""

_MARK = "tenterhook doctor: "
_PROBE = f"""
import json, sys, time
from importlib.metadata import EntryPoint
from tenterhook.plugins import PluginManager
before = set(sys.modules)
start = time.perf_counter()
try:
    plugin = EntryPoint("plugin", sys.argv[1], "").load()
    PluginManager(autoload=False).register(plugin, "plugin")
finally:
    seconds = time.perf_counter() - start
    new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
    result = json.dumps({{"seconds": seconds, "modules": sorted(new)}})
    sys.__stdout__.write("\\n{_MARK}" + result + "\\n")
"""


@attrs.frozen(kw_only=True)
class Examined:
    """One plugin, imported alone."""

    plugin: str
    distribution: str
    version: str
    blocked: bool
    """Whether the environment keeps it out; it was not imported then."""
    seconds: float | None
    """How long it took to import and to ask; `None` where it did not come to an end."""
    heavy: list[str]
    """The heavy packages that the import brought in."""
    complaints: list[str]


@attrs.frozen
class Examination:
    """All of them, and what is wrong beyond any one import."""

    plugins: list[Examined]
    problems: list[str]

    @property
    def complaints(self) -> list[str]:
        """Everything there is to repair."""
        return [
            *self.problems,
            *(one for each in self.plugins for one in each.complaints),
        ]

    def values(self) -> dict[str, Any]:
        """Return it as plain values."""
        return attrs.asdict(self)

    def lines(self) -> Iterator[str]:
        """Say it."""
        width = max((len(each.plugin) for each in self.plugins), default=0)
        for each in self.plugins:
            if each.blocked:
                time = "kept out"
            else:
                time = "   -    " if each.seconds is None else f"{1000 * each.seconds:5.0f} ms"
            release = f"{each.distribution} {each.version}"
            yield f"{each.plugin:<{width}}  {time}  {release}"
        if not self.complaints:
            yield "Nothing is wrong."
        for complaint in self.complaints:
            yield f"- {complaint}"


def examine() -> Examination:
    """Import each installed plugin alone, then load those that come to an end together."""
    found, _ = find_installed()
    examined, lethal = [], []
    for each in found:
        one, survives = _examine(each)
        examined.append(one)
        if not survives:
            lethal.append(each.distribution)
    return Examination(examined, [*_load(lethal), *_twice(), *_called_alike(found)])


def _who(plugin: InstalledPlugin) -> str:
    return f"Plugin {plugin.entry_point.name!r} of {plugin.distribution} {plugin.version}"


def _twice() -> Iterator[str]:
    """Report metadata that another copy of the distribution hides.

    Not one folder that is on the path twice, nor the `.egg-info` that setuptools leaves beside
    the sources of an editable install: those say the same.
    """
    first: dict[tuple[str, str], InstalledPlugin] = {}
    for each in read_entry_points([]):
        one = first.setdefault(each.key, each)
        folders = {one.folder, each.folder}
        if len(folders) > 1 and not (
            one.version == each.version and any(path.suffix == ".egg-info" for path in folders)
        ):
            yield (
                f"{_who(each)} is never loaded: its metadata in {shown(str(each.folder))} comes "
                f"after that of {one.version} in {shown(str(one.folder))}. Run `pip uninstall "
                f"{each.distribution}` until it is gone, and install it once."
            )


def _called_alike(found: list[InstalledPlugin]) -> Iterator[str]:
    """Report plugins of one name: both work, and what names one names both."""
    first: dict[str, InstalledPlugin] = {}
    for each in found:
        one = first.setdefault(normal_name(each.entry_point.name), each)
        if one is not each:
            yield (
                f"{_who(each)} is called as one of {one.distribution} is. Both work, and "
                f"{BLOCK_VARIABLE}={each.entry_point.name} keeps out both. Name a distribution "
                f"there, as {each.distribution}, or ask its author for another name."
            )


def _load(lethal: list[str]) -> list[str]:
    """Load all plugins but those that ended their process; return what is wrong with them."""
    blocked = os.environ.get(BLOCK_VARIABLE)
    os.environ[BLOCK_VARIABLE] = ",".join([*filter(None, [blocked]), *lethal])
    try:
        with warnings.catch_warnings(), using(PluginManager(autoload=False)) as manager:
            warnings.simplefilter("ignore")
            with stdout_to_stderr():
                manager.load_entry_points()
                lost = list(misplaced(COMMANDS, load=True))
            return [*map(str, manager.problems), *lost]
    finally:
        if blocked is None:
            del os.environ[BLOCK_VARIABLE]
        else:
            os.environ[BLOCK_VARIABLE] = blocked


def _examine(plugin: InstalledPlugin) -> tuple[Examined, bool]:
    """Return what was found, and whether the import came to an end."""
    complaints = list(_stale(plugin))
    seconds: float | None = None
    heavy: list[str] = []
    survives = True
    if plugin.wanted():
        seconds, modules, ended = _probe(plugin.entry_point.value)
        heavy = [name for name in HEAVY if name in modules]
        survives = ended is None
        who = _who(plugin)
        if ended is not None:
            complaints.append(
                f"{who} {ended} when it is loaded. Uninstall it, or set "
                f"{BLOCK_VARIABLE}={plugin.distribution}."
            )
        if heavy:
            complaints.append(
                f"{who} imports {', '.join(heavy)} when plugins are listed. Import it in the "
                f"module of a target, not in {plugin.entry_point.module} or its package."
            )
        elif seconds is not None and seconds > SLOW:
            complaints.append(
                f"{who} takes {seconds:.2f} s to import, which every list of plugins waits for. "
                f"`python -X importtime -c 'import {plugin.entry_point.module}'` says where."
            )
    one = Examined(
        plugin=plugin.entry_point.name,
        distribution=plugin.distribution,
        version=plugin.version,
        blocked=not plugin.wanted(),
        seconds=seconds,
        heavy=heavy,
        complaints=complaints,
    )
    return one, survives


def _probe(value: str) -> tuple[float | None, list[str], str | None]:
    """Load an entry point in a process of its own: seconds, new packages, and how it ended badly.

    One that raises has come to an end; what it raised is reported when all are loaded.
    """
    path = os.pathsep.join(each for each in sys.path if each)
    command = [sys.executable, "-c", _PROBE, value]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env={**os.environ, "PYTHONPATH": path, ONLY_VARIABLE: ""},  # no other one
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return None, [], f"does not come to an end in {TIMEOUT:.0f} s"
    try:
        result = json.loads(done.stdout.rpartition(f"\n{_MARK}")[2].partition("\n")[0])
        return result["seconds"], result["modules"], None
    except (ValueError, KeyError, TypeError):
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return None, [], f"ends the process ({ended})"


def _editable_folder(plugin: InstalledPlugin) -> str | None:
    """Return where an editable install's sources are, as PEP 610 has it."""
    distribution = plugin.entry_point.dist
    try:
        origin = json.loads((distribution and distribution.read_text("direct_url.json")) or "{}")
        editable = origin.get("dir_info", {}).get("editable", False)
        return url2pathname(urlparse(origin["url"]).path) if editable else None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None  # somebody else's file, and only one of the things we look at


def _stale(plugin: InstalledPlugin) -> Iterator[str]:
    """Compare an editable install's metadata with what its pyproject.toml says now."""
    folder = _editable_folder(plugin)
    if folder is None:
        return
    who = _who(plugin)
    again = f"Install it again: `pip install -e {folder}`."
    if not Path(folder).is_dir():
        yield f"{who} is stale: its folder {shown(folder)} is gone. Uninstall it."
        return
    try:
        pyproject = tomllib.loads(Path(folder, "pyproject.toml").read_text("utf-8"))
        project = pyproject["project"]
        if "entry-points" in project.get("dynamic", ()):
            return  # they are written elsewhere
        version = project.get("version")
        declared = project.get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
        now = declared.get(plugin.entry_point.name)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return  # others declare it elsewhere
    if now != plugin.entry_point.value:
        yield (
            f"{who} is stale: its metadata names {plugin.entry_point.value!r}, and its "
            f"pyproject.toml names {'nothing so called' if now is None else shown(now)}. {again}"
        )
    elif version is not None and version != plugin.version:
        yield f"{who} is stale: its pyproject.toml says version {shown(version)}. {again}"
