"""What `tenterhook plugins new` writes: a distribution that works before anything is changed."""

import keyword
import re
import sys
from importlib import metadata, resources
from importlib.util import find_spec
from string import Template

import attrs
import click

from tenterhook import __version__
from tenterhook.plugins import FIRST_PARTY

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_.][A-Za-z0-9]+)*")

LINE_LENGTH = 100
"""Of what is written; its `pyproject.toml` says so."""

LONGEST_NAME = 50
"""Of a distribution, so that lines fit."""


@attrs.frozen(kw_only=True)
class Beginning:
    """What a plugin of one kind begins with; its code is in the template of the kind's name."""

    help: str
    usage: str
    """How users come by it, a template; stands in README.md."""
    target: str = ""
    """What the code calls it; nothing for a class, which is named after the plugin."""
    is_word: bool = True
    """Whether it is asked for by a word, and not by the name of its class."""
    uses: tuple[str, ...] = ("torch",)
    """What its code needs, beside core."""
    tested_with: tuple[str, ...] = ()
    """What its tests need besides."""
    example: str = ""
    """What in its code makes one for tests, where defaults do not."""
    files: tuple[str, ...] = ()
    """Further modules; their templates have the kind before their names."""


BEGINNINGS = {
    "detector": Beginning(
        help="Keeps the largest entry of each feature.",
        usage="Users register it: `model.layers.register_hook(layer, $target())`.",
        is_word=False,
    ),
    "controller": Beginning(
        help="Multiplies a layer's activation by a factor.",
        usage="Users steer with it: `with model.steer(layer, $target(factor=2.0)):`.",
        is_word=False,
    ),
    "store": Beginning(
        help="Keeps tensors and runs.",
        usage="Users open it: `from tenterhook_store import $target`.",
        is_word=False,
        uses=("tenterhook-store", "torch"),
        files=("files",),
    ),
    "loader": Beginning(
        help="Loads a small model that reads bytes.",
        usage="Users name it: `tenterhook layers $extension:small`.",
        target="load",
        uses=("tenterhook-capture", "numpy", "torch"),
    ),
    "dataset": Beginning(
        help="Gives all sums of two small numbers, as texts.",
        usage="Users name it: `tenterhook capture MODEL --data $extension:20`.",
        target="read",
        uses=("tenterhook-capture",),
    ),
    "layer-names": Beginning(
        help="Gives the layers of PyTorch's TransformerEncoder their standard names.",
        usage='Users write them wherever a layer is named: `model.capture("resid_post.0")`.',
        target="name_layers",
        example="a_model",
        uses=("tenterhook-transformers", "torch"),
    ),
    "points": Beginning(
        help="Offers what attention weighs in PyTorch's MultiheadAttention.",
        usage='Users write them wherever a layer is named: `model.capture("$extension.0")`.',
        target="find_points",
        example="a_model",
    ),
    "command": Beginning(
        help="Lists Python, torch and plugins with their versions, for reports of bugs.",
        usage="Users run it: `tenterhook $extension`.",
        target="command",
        uses=("click",),
        tested_with=("torch",),
    ),
    "observer": Beginning(
        help="Logs how runs begin, fail and end.",
        usage="It is told of every run; `logging.basicConfig(level=logging.INFO)` shows the log.",
        uses=("tenterhook-capture",),
        tested_with=("tenterhook-store",),
    ),
    "spec-format": Beginning(
        help="Reads and writes specs as Python literals.",
        usage="Users name a file with its ending: `hooks.$extension`.",
        target="FORMAT",
        uses=("tenterhook-specs",),
    ),
    "exporter": Beginning(
        help="Writes the rows of a run as CSV, a file for each layer.",
        usage="Users name it: `tenterhook runs export STORE --format $extension --to FOLDER`.",
        target="export",
        uses=("tenterhook-store",),
        tested_with=("torch",),
    ),
    "selector": Beginning(
        help="Selects the first token of each row.",
        usage='Users name it: `model.capture(layer, tokens="$extension")`.',
        target="select",
        uses=("tenterhook-selections", "torch"),
    ),
    "engine": Beginning(
        help="Does one unit of a run after the other, with a rest between.",
        usage="Users name it: `tenterhook capture MODEL --engine $extension`.",
        uses=("tenterhook-capture", "tenterhook-store", "attrs"),
        tested_with=("tenterhook-zarr",),  # the contract's runs are in the default store
    ),
}
"""By kind, as `--kind` takes it."""

_TOOLS = ("tenterhook-cli", "mypy", "pytest", "ruff")
_LEAST = {
    "attrs": "24.2",
    "click": "8.2",
    "mypy": "1.15",
    "numpy": "1.26",
    "pytest": "8.3",
    "ruff": "0.11",
    "torch": "2.6",
}


def hook_of(kind: str) -> str:
    """Return the kind as hooks have it: `spec_formats` of `spec-format`."""
    return kind.replace("-", "_").removesuffix("s") + "s"


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
    begun, hook, module = BEGINNINGS[kind], hook_of(kind), kind.replace("-", "_")
    suffix = kind.capitalize()
    named = camel if camel.endswith(suffix) and camel != suffix else f"{camel}{suffix}"
    target = begun.target or named
    extension = stem.replace("_", "-") if begun.is_word else target
    if taken := FIRST_PARTY[hook].get(extension):
        raise _bad(f"{name!r} would offer {extension!r}, which {taken} has; try my-{name}")
    values = {
        "name": name,
        "package": package,
        "entry_point": stem.replace("_", "-"),
        "hook": hook,
        "module": module,
        "target": target,
        "extension": extension,
        "help": begun.help,
        "import_target": _import(f"{package}.{module}", target),
        "example": "",
        "dependencies": _required("tenterhook-core", *begun.uses),
        "test_dependencies": _required(*_TOOLS, *begun.tested_with),
    }
    if begun.example:
        values["example"] = f'\n            example="{package}.{module}:{begun.example}",'
    values["usage"] = Template(begun.usage).substitute(values)
    source = f"src/{package}"
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{source}/__init__.py": "init.py",
        f"{source}/plugin.py": "plugin.py",
        f"{source}/{module}.py": f"{module}.py",
        **{f"{source}/{file}.py": f"{module}_{file}.py" for file in begun.files},
        f"tests/test_{stem}.py": f"test_{module}.py",
    }
    files = {path: _filled(template, values) for path, template in templates.items()}
    return {**files, f"{source}/py.typed": ""}


def _required(*names: str) -> str:
    """Return what a list of dependencies has between its brackets: ours are released together."""
    major, minor = __version__.split(".")[:2]
    ours = f">={__version__},<{major}.{int(minor) + 1}"
    each = (f"{name}>={_LEAST[name]}" if name in _LEAST else f"{name}{ours}" for name in names)
    return "\n" + "".join(f'  "{one}",\n' for one in each)


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


def _bad(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="NAME")
