"""The house stands as it was drawn: core is small, arrows point one way, nothing runs in a circle.

Everything is read from the code: imports under `TYPE_CHECKING` and inside functions count, too.
What a plugin may import is what its pyproject declares, by public names. A door is a module of core
that puts another package into its own place; see `tenterhook/_doors.py`.
"""

import ast
import graphlib
import importlib
import io
import pickle
import pkgutil
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 4_000
MOST_FLOORS = 12

DOORS = {
    "tenterhook.capture": "tenterhook_capture",
    "tenterhook.documents": "tenterhook_capture.documents",
    "tenterhook.engine": "tenterhook_capture.engine",
    "tenterhook.loading": "tenterhook_capture.loading",
    "tenterhook.observers": "tenterhook_capture.observers",
    "tenterhook.reductions": "tenterhook_store.reductions",
    "tenterhook.schemes": "tenterhook_store.schemes",
    "tenterhook.selections": "tenterhook_selections",
    "tenterhook.specs": "tenterhook_specs",
    "tenterhook.store": "tenterhook_store",
    "tenterhook.taps": "tenterhook_taps",
    "tenterhook.testing.commands": "tenterhook_cli.testing",
    "tenterhook.testing.datasets": "tenterhook_capture.testing.datasets",
    "tenterhook.testing.engines": "tenterhook_capture.testing.engines",
    "tenterhook.testing.exporters": "tenterhook_store.testing.exporters",
    "tenterhook.testing.loaders": "tenterhook_capture.testing.loaders",
    "tenterhook.testing.observers": "tenterhook_capture.testing.observers",
    "tenterhook.testing.selectors": "tenterhook_selections.testing",
    "tenterhook.testing.specs": "tenterhook_specs.testing",
    "tenterhook.testing.stores": "tenterhook_store.testing",
    "tenterhook.testing.text_models": "tenterhook_capture.testing.text_models",
    "tenterhook.text_model": "tenterhook_capture.text_model",
}
"""Where core names other packages, beside `.pyi` files."""

ARROWS = {
    "tenterhook-core": set[str](),
    "tenterhook-selections": {"tenterhook-core"},
    "tenterhook-specs": {"tenterhook-core"},
    "tenterhook-store": {"tenterhook-core"},
    "tenterhook-capture": {"tenterhook-store", "tenterhook-selections", "tenterhook-specs"},
    "tenterhook-cli": {"tenterhook-capture"},
    "tenterhook-layer-activation": {"tenterhook-core"},
    "tenterhook-model-io": {"tenterhook-core"},
    "tenterhook-function-controller": {"tenterhook-core"},
    "tenterhook-edits": {"tenterhook-selections"},
    "tenterhook-taps": {"tenterhook-core"},
    "tenterhook-zarr": {"tenterhook-store"},
    "tenterhook-hook-points": {"tenterhook-store"},
    "tenterhook-transformers": {"tenterhook-capture"},
    "tenterhook-interiors": {"tenterhook-core"},
    "tenterhook-analysis": {"tenterhook-transformers"},
    "tenterhook-sae": {"tenterhook-capture"},
    "tenterhook-run-log": {"tenterhook-capture"},
    "tenterhook-ray": {"tenterhook-capture"},
    "tenterhook-tiny": {"tenterhook-transformers"},
    "tenterhook-view": {"tenterhook-store"},
    "tenterhook-vllm": {"tenterhook-edits", "tenterhook-transformers"},
}
"""Who may depend on whom; what a dependency may depend on is allowed, too."""

NOT_IN_CORE = {"click", "rich", "cattrs", "zarr", "transformers", "numpy"}
OF_TESTS = {"pytest", "hypothesis", "_pytest"}
OF_PYTEST = {"testing", "check", "contract_examples"}
"""Modules that run only under pytest, which whoever asks for them has, and the tools of tests."""


@attrs.frozen
class Distribution:
    """One of ours, as its folder declares it."""

    name: str
    package: str
    source: Path
    """The folder that holds the package."""
    required: frozenset[str]
    optional: frozenset[str]
    """What its extras bring."""


def read(folder: Path) -> Distribution:
    """Read a member of this repository."""
    project = tomllib.loads(folder.joinpath("pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    (package,) = folder.glob("src/*/__init__.py")
    return Distribution(
        project["name"],
        package.parent.name,
        folder / "src",
        frozenset(map(bare, project["dependencies"])),
        frozenset(bare(each) for extra in extras for each in extra),
    )


def bare(requirement: str) -> str:
    """Return the name of a requirement: `Zarr_3[remote]>=3.1` is `zarr-3`."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


MEMBERS = [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
OURS = [read(folder) for folder in MEMBERS]
CORE = OURS[0]
PACKAGES = {each.package: each for each in OURS}

each_distribution = pytest.mark.parametrize("one", OURS, ids=lambda one: one.name)
each_door = pytest.mark.parametrize("door", DOORS)


@attrs.frozen
class Import:
    """One name that a module imports; `name` is None where it imports the module itself."""

    by: str
    line: int
    module: str
    name: str | None
    later: bool
    """Whether it is imported inside a function, or for types alone."""

    def __str__(self) -> str:
        what = self.module if self.name is None else f"{self.module}.{self.name}"
        return f"{self.by}:{self.line} imports {what}"


@cache
def modules(one: Distribution) -> Mapping[str, Path]:
    """Return the modules of a distribution by name."""
    found = {}
    for path in sorted(one.source.rglob("*.py")):
        parts = path.relative_to(one.source).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


ALL_MODULES = {name: path for one in OURS for name, path in modules(one).items()}


@cache
def parsed(module: str) -> ast.Module:
    """Return the syntax tree of a module of ours."""
    return ast.parse(ALL_MODULES[module].read_text())


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Return what a module of ours imports, wherever it says so."""
    return tuple(_imports(module, parsed(module), later=False))


def _imports(module: str, tree: ast.AST, *, later: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield Import(module, node.lineno, each.name, None, later)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively"
            for each in node.names:
                yield _from(module, node, each.name, later)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            match node.args[0]:
                case ast.Constant(value=str() as name):
                    yield Import(module, node.lineno, name, None, later)
        yield from _imports(module, node, later=later or is_later(node))


def is_later(node: ast.AST) -> bool:
    """Say whether what stands in a node is not run when its module is imported."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return True
        case ast.If(test=ast.Name("TYPE_CHECKING")):
            return True
    return False


def _from(by: str, node: ast.ImportFrom, name: str, later: bool) -> Import:
    """Return the import of a name, which may be a module of its package."""
    assert node.module is not None
    whole = f"{node.module}.{name}"
    if whole in ALL_MODULES:
        return Import(by, node.lineno, whole, None, later)
    return Import(by, node.lineno, node.module, name, later)


def graph(one: Distribution) -> dict[str, set[str]]:
    """Return which modules of a distribution each of them imports, those of tests left out."""
    names = {name for name in modules(one) if "testing" not in name.split(".")}
    return {
        name: {each.module for each in imports(name)} & names - {name} for name in sorted(names)
    }


def floors(of: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Sort modules into floors: each imports from those below it alone.

    Raises `graphlib.CycleError` where that cannot be.
    """
    sorter = graphlib.TopologicalSorter(of)
    sorter.prepare()
    found = []
    while ready := sorter.get_ready():
        found.append(ready)
        sorter.done(*ready)
    return found


def lines_of_code(source: str) -> int:
    """Count the lines that hold more than blanks, a comment or a docstring."""
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.OP, tokenize.NAME, tokenize.NUMBER, tokenize.STRING):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_how_lines_are_counted() -> None:
    """Neither docstrings nor comments, so that nobody saves on them."""
    source = '''"""A module.

Of two paragraphs.
"""

import sys  # counts

# does not


def exits() -> None:
    """Leave."""
    sys.exit(
        1,
    )


LEFT = 1
"""Said of the constant."""
'''
    assert lines_of_code(source) == 6


def test_core_is_small() -> None:
    """Its tests for plugins, which nobody reads to understand it, are not counted."""
    sizes = {
        name: lines_of_code(path.read_text())
        for name, path in modules(CORE).items()
        if "testing" not in name.split(".")
    }

    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
    assert sum(sizes.values()) <= MOST_LINES, {name: sizes[name] for name in largest}


@each_distribution
def test_no_circle_of_imports(one: Distribution) -> None:
    """Whoever reads a module has nothing to read twice."""
    try:
        floors(graph(one))
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_circle_would_be_noticed() -> None:
    """Also one that goes round three modules."""
    with pytest.raises(graphlib.CycleError):
        floors({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert len(floors({"a": {"b", "c"}, "b": {"c"}, "c": set()})) == 3


def test_core_has_few_floors() -> None:
    """The longest way from a module down to one that imports nothing of ours."""
    imported = graph(CORE)
    longest: dict[str, tuple[str, ...]] = {}
    for name in (name for floor in floors(imported) for name in floor):
        longest[name] = (
            name,
            *max((longest[each] for each in imported[name]), key=len, default=()),
        )
    way = max(longest.values(), key=len)

    assert len(way) == len(floors(imported))
    assert len(way) <= MOST_FLOORS, " imports ".join(way)


def allowed(name: str) -> set[str]:
    """Return what a distribution may depend on, of ours."""
    return ARROWS[name] | {far for near in ARROWS[name] for far in allowed(near)}


@each_distribution
def test_dependencies_point_one_way(one: Distribution) -> None:
    """From plugins to core, along the arrows above."""
    declared = {name for name in one.required if name.startswith("tenterhook")}

    assert declared <= allowed(one.name)


@cache
def distributions_of(package: str) -> frozenset[str]:
    """Return the distributions that bring a top-level package."""
    if package in PACKAGES:
        return frozenset({PACKAGES[package].name})
    return frozenset(map(bare, metadata.packages_distributions().get(package, [package])))


@cache
def on_demand(one: Distribution) -> set[str]:
    """Return the modules that no other of the distribution imports when it is imported itself."""
    at_once = {each.module for name in modules(one) for each in imports(name) if not each.later}
    return set(modules(one)) - at_once - {one.package}


def strangers(one: Distribution) -> Iterator[Import]:
    """Find what a distribution imports that is neither its own nor Python's."""
    for name in modules(one):
        is_of_tests = OF_PYTEST & set(name.split("."))
        for each in imports(name):
            top = each.module.partition(".")[0]
            if top in sys.stdlib_module_names or top == one.package:
                continue
            if not (is_of_tests and top in OF_TESTS):
                yield each


@each_distribution
def test_what_is_imported_is_declared(one: Distribution) -> None:
    """What only an extra brings is imported when it is used."""
    missing = []
    for each in strangers(one):
        brings = distributions_of(each.module.partition(".")[0])
        is_late = each.later or each.by in on_demand(one)
        lazily = one.optional if is_late else frozenset[str]()
        if not brings & (one.required | lazily):
            missing.append(str(each))

    assert not missing, "\n".join(missing)


@each_distribution
def test_what_is_declared_is_imported(one: Distribution) -> None:
    """Nobody installs what nothing uses."""
    used = frozenset[str]().union(
        *(distributions_of(each.module.partition(".")[0]) for each in strangers(one))
    )

    assert one.required - used == set()


def test_core_names_no_plugin() -> None:
    """Not for types either, and nothing that a plugin is there to know."""
    wrong = [
        str(each)
        for each in strangers(CORE)
        if each.module.partition(".")[0] in {*NOT_IN_CORE, *PACKAGES}
    ]

    assert not wrong, "\n".join(wrong)


@cache
def exported(module: str) -> set[str] | None:
    """Return the `__all__` of a module of ours, or None where it has none."""
    names = getattr(importlib.import_module(module), "__all__", None)
    return None if names is None else set(names)


def is_public(each: Import) -> bool:
    """Say whether what is imported from a distribution of ours is offered to others."""
    path = each.module.split(".")[1:]
    if any(part.startswith("_") for part in path):
        return False
    if each.name is None or each.name == "__version__":
        return each.module in ALL_MODULES
    names = exported(each.module) if each.module in ALL_MODULES else set()
    return each.name in names if names is not None else not each.name.startswith("_")


def private_attributes(module: str) -> Iterator[str]:
    """Find `tenterhook_x._y` in a module, where `tenterhook_x` was imported."""
    packages = {each.module for each in imports(module) if each.name is None}
    own = module.partition(".")[0]
    for node in ast.walk(parsed(module)):
        match node:
            case ast.Attribute(value=value, attr=attr) if re.match(r"_(?!_)", attr):
                named = ast.unparse(value)
                if named in packages and named.partition(".")[0] in {*PACKAGES} - {own}:
                    yield f"{module}:{node.lineno} uses {named}.{attr}"


@each_distribution
def test_only_public_names_are_imported(one: Distribution) -> None:
    """What a plugin of ours needs of another, a stranger's plugin may use as well."""
    wrong = [
        str(each)
        for each in strangers(one)
        if each.module.partition(".")[0] in PACKAGES and not is_public(each)
    ]
    wrong += [each for name in modules(one) for each in private_attributes(name)]

    assert not wrong, "\n".join(wrong)


@each_distribution
def test_our_own_code_goes_through_no_door(one: Distribution) -> None:
    """A plugin imports a package by its own name; core opens a door when a user asks for it."""
    wrong = [
        str(each)
        for name in modules(one)
        for each in imports(name)
        if (each.module in DOORS or (each.module, each.name) == ("tenterhook", "Selection"))
        and not (one is CORE and each.later)
    ]

    assert not wrong, "\n".join(wrong)


def doors() -> Iterator[tuple[str, str, str]]:
    """Find the doors: their names, the packages behind them, and who brings those."""
    for name, path in modules(CORE).items():
        found = re.search(r'^open_door\(__name__, "(.+)", "(.+)"\)$', path.read_text(), re.M)
        if found:
            yield name, found[1], found[2]


def test_the_doors_are_those_above() -> None:
    """Each names who brings its package, and a `.pyi` beside it tells type checkers the same."""
    assert {door: package for door, package, _ in doors()} == DOORS
    for door, package, distribution in doors():
        top = package.partition(".")[0]
        assert distribution == PACKAGES[top].name
        stub = ALL_MODULES[door].with_suffix(".pyi").read_text()
        assert stub == f"from {package} import *\n"


@pytest.mark.parametrize(
    "statement",
    ["from tenterhook.store import LocalStore", "from tenterhook.store.errors import UnknownRun"],
)
def test_threads_at_one_door(statement: str) -> None:
    """Those that come while another opens it find the package, too."""
    code = f"""
import threading, time

def come(late):
    time.sleep(late)
    try:
        {statement}
    except BaseException as error:
        print(repr(error))

threads = [threading.Thread(target=come, args=(0.01 * at,)) for at in range(12)]
for each in threads: each.start()
for each in threads: each.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == ""


@each_door
def test_a_door_is_the_package(door: str) -> None:
    """The same object by either name, its submodules, too."""
    package = importlib.import_module(DOORS[door])

    assert importlib.import_module(door) is package
    assert package.__spec__ is not None
    assert package.__spec__.name == DOORS[door]
    for found in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if found.name != "testing":  # which asks for pytest's rewriting, once, by its own name
            behind = importlib.import_module(f"{door}.{found.name}")
            assert behind is importlib.import_module(f"{DOORS[door]}.{found.name}")
            assert behind.__name__ == f"{DOORS[door]}.{found.name}"


@pytest.mark.parametrize("first", ["tenterhook.store.rows", "tenterhook_store.rows"])
def test_a_submodule_is_loaded_once(first: str) -> None:
    """Whichever name comes first, so that there is one class of each name."""
    code = f"""
import importlib
importlib.import_module({first!r})
import tenterhook_store.rows, tenterhook.store.rows
import tenterhook.store
assert tenterhook.store is tenterhook_store
assert tenterhook.store.rows is tenterhook_store.rows
assert tenterhook_store.rows.__spec__.name == "tenterhook_store.rows"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pickle_is_of_the_package() -> None:
    """A class has one home, by whatever name it was imported; old pickles name the door."""
    from tenterhook.store import UnknownRun
    from tenterhook_store import UnknownRun as Canonical

    pickled = pickle.dumps(UnknownRun)

    assert UnknownRun is Canonical
    assert b"tenterhook_store" in pickled
    assert pickle.loads(pickled) is Canonical
    assert pickle.loads(b"ctenterhook.store\nUnknownRun\n.") is Canonical


def test_a_submodule_that_is_not_there() -> None:
    """Raises as Python does."""
    with pytest.raises(ModuleNotFoundError, match=r"tenterhook\.store\.nothing"):
        importlib.import_module("tenterhook.store.nothing")


BLOCKED = """
import importlib, sys

class Blocks:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocks())
try:
    importlib.import_module({door!r})
except ImportError as error:
    print(error)
"""


def run_without(missing: str, door: str) -> str:
    """Open a door in a process that lacks a package, and return what the error says."""
    code = BLOCKED.format(missing=missing, door=door)
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


@pytest.mark.parametrize("door", [door for door, package in DOORS.items() if "_" in package])
def test_a_door_to_what_is_not_installed(door: str) -> None:
    """Says what to install."""
    missing = DOORS[door].partition(".")[0]
    distribution = PACKAGES[missing].name

    assert run_without(missing, door) == (
        f"{door} comes with {distribution}, which is not installed: `pip install {distribution}`."
    )


def test_a_door_to_what_lacks_something_itself() -> None:
    """The package is there; what it lacks is what is said."""
    assert run_without("cattrs", "tenterhook.testing.specs") == "No module named 'cattrs'"
