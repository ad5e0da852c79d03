"""What `tenterhook plugins new` writes: a distribution that works before anything is changed."""

import keyword
import re
import sys
from importlib import metadata, resources
from importlib.util import find_spec
from string import Template

import click

from tenterhook import __version__
from tenterhook.plugins import FIRST_PARTY

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_.][A-Za-z0-9]+)*")

LINE_LENGTH = 100
"""Of what is written; its `pyproject.toml` says so."""

LONGEST_NAME = 50
"""Of a distribution, so that lines fit."""

_OF_CORE = {"MemoryStore": "tenterhook"}
_HELP = {
    "detector": "Keeps the largest entry of each feature.",
    "controller": "Multiplies a layer's activation by a factor.",
    "store": "Keeps tensors and runs.",
    "loader": "Loads a small model that reads bytes.",
}
_USAGE = {
    "detector": "Users register it: `model.layers.register_hook(layer, $target())`.",
    "controller": "Users steer with it: `with model.steer(layer, $target(factor=2.0)):`.",
    "store": "Users open it: `from tenterhook_store import $target`.",
    "loader": "Users name it: `tenterhook layers $extension:small`.",
}


def scaffold(name: str, kind: str) -> dict[str, str]:
    """Return the files of a plugin that offers one thing of a kind, path to text.

    Raises `click.BadParameter` for what cannot name a distribution, or names one that is taken.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise _bad(
            f"{name!r} cannot name a distribution; use letters, digits and '-', {LONGEST_NAME} at "
            f"most: my-{kind}"
        )
    package = re.sub(r"[-_.]", "_", name).lower()
    if owner := _owner(name, package):
        raise _bad(
            f"{name!r} would be the package {package!r}, which is taken: {owner}; try {name}-{kind}"
        )
    stem = re.sub(r"^tenterhook_(?=[a-z])", "", package)
    camel = "".join(part.capitalize() for part in stem.split("_"))
    suffix = kind.capitalize()
    target = camel if camel.endswith(suffix) and camel != suffix else f"{camel}{suffix}"
    extension = stem.replace("_", "-") if kind == "loader" else target
    taken = FIRST_PARTY[f"{kind}s"].get(extension) or _OF_CORE.get(extension)
    if taken:
        raise _bad(f"{name!r} would offer {extension!r}, which {taken} has; try my-{name}")
    major, minor = __version__.split(".")[:2]
    values = {
        "name": name,
        "package": package,
        "entry_point": stem.replace("_", "-"),
        "kind": kind,
        "target": "load" if kind == "loader" else target,
        "extension": extension,
        "help": _HELP[kind],
        "version": __version__,
        "next_version": f"{major}.{int(minor) + 1}",
    }
    values["import_target"] = _import(f"{package}.{kind}", values["target"])
    values["usage"] = Template(_USAGE[kind]).substitute(values)
    source = f"src/{package}"
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{source}/__init__.py": "init.py",
        f"{source}/plugin.py": "plugin.py",
        f"{source}/{kind}.py": f"{kind}.py",
        f"tests/test_{stem}.py": f"test_{kind}.py",
    }
    if kind == "store":
        templates[f"{source}/files.py"] = "store_files.py"
    files = {path: _filled(template, values) for path, template in templates.items()}
    return {**files, f"{source}/py.typed": ""}


def _import(module: str, name: str) -> str:
    """Return the import as a formatter leaves it."""
    line = f"from {module} import {name}"
    return line if len(line) <= LINE_LENGTH else f"from {module} import (\n    {name},\n)"


def _owner(name: str, package: str) -> str | None:
    """Say what has the package's name, or the distribution's, already; `None` where nothing has."""
    if keyword.iskeyword(package):
        return "it is a word of Python's"
    if package in sys.stdlib_module_names:
        return "it is Python's own"
    if package in ("tenterhook", "torch"):
        return "it is what plugins import"
    first_party = {each for names in FIRST_PARTY.values() for each in names.values()}
    if package.replace("_", "-") in first_party:
        return "it is a plugin of tenterhook's own"
    try:
        return f"{metadata.distribution(name).metadata['Name']} is installed"
    except metadata.PackageNotFoundError:
        pass
    spec = find_spec(package)
    # A folder without code is a package to Python; `my-detector/` may stand here.
    return f"it is installed, in {spec.origin}" if spec and spec.origin else None


def _filled(template: str, values: dict[str, str]) -> str:
    folder = resources.files("tenterhook_cli") / "templates"
    return Template((folder / f"{template}.txt").read_text("utf-8")).substitute(values)


def _bad(said: str) -> click.BadParameter:
    return click.BadParameter(said, param_hint="NAME")
