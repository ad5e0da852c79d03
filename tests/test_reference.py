"""The pages of docs/reference say what the code does, and the code has no public name beside them.

Every public name, and every public member of the classes behind them, has its reference. The other
way round, what a page says of a call is compared with its signature. On these pages

- a code span in a heading, in the first column of a table, or at the beginning of a line states:
  `take(rows, *, check=True)` names all parameters, in their order, with their defaults, and `*`
  where the rest go by keyword; `...` stands for parameters that are not named, and `=...` for a
  default that is not written out;
- a call with values, as `stack("resid_post")`, is an example, which must fit the signature;
- any other code span is prose, and only whole import paths (`tenterhook.x.y`) are looked up.

Names are looked up in the class of the heading above, then in the modules of the page. The page of
the command line is compared with the commands themselves: their arguments and all their options.
"""

import ast
import builtins
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import torch

import tenterhook
import tenterhook.hooks
import tenterhook.hooks.utils
import tenterhook_capture
from tenterhook import hookspecs
from tenterhook_cli.command_line import cli

FOLDER = Path(__file__).parents[1] / "docs/reference"
PAGES = sorted(FOLDER.glob("*.md"))
FENCED = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
CODE = SPAN.findall(FENCED.sub("", "\n".join(page.read_text() for page in PAGES)))
NAMED = {word for code in CODE for word in re.findall(r"\w+", code)}

NAMES = sorted(
    {
        *tenterhook.__all__,
        *tenterhook_capture.__all__,
        *tenterhook.hooks.__all__,
        *tenterhook.hooks.utils.__all__,
    }
)
CLASSES = [
    tenterhook.Captured,
    tenterhook.Extension,
    tenterhook.HookContext,
    tenterhook.HookRegistry,
    tenterhook.HookedModel,
    tenterhook.Inputs,
    tenterhook.LayerIndex,
    tenterhook.PluginManager,
    tenterhook.Selection,
    tenterhook.hooks.Controller,
    tenterhook.hooks.Detector,
    tenterhook.hooks.Hook,
]
MEMBERS = sorted(
    {
        f"{cls.__name__}.{member}"
        for cls in CLASSES
        for member in {*vars(cls), *getattr(cls, "__annotations__", {})}
        if not member.startswith("_")
    }
)

MODULES = {
    "analysis": ["tenterhook_analysis"],
    "captures": [
        "tenterhook.capture",
        "tenterhook.engine",
        "tenterhook.store",
        "tenterhook_capture.option_fields",
    ],
    "hook-points": [
        "tenterhook_hook_points",
        "tenterhook_hook_points.gpt",
        "tenterhook_hook_points.llama",
    ],
    "hooks": ["tenterhook", "tenterhook.hooks", "tenterhook.hooks.utils"],
    "interiors": ["tenterhook_interiors"],
    "language-model": ["tenterhook_transformers"],
    "plugins": ["tenterhook", "tenterhook.plugins"],
    "serving": ["tenterhook_vllm", "tenterhook_vllm.testing"],
    "sparse-autoencoders": ["tenterhook_sae"],
    "specs": ["tenterhook.specs"],
    "stores": ["tenterhook.store", "tenterhook.capture"],
    "taps": ["tenterhook_taps", "tenterhook"],
    "view": ["tenterhook_view", "tenterhook.html"],
}
"""Where the names of a page are; the other pages state no calls of Python."""

VARIABLES = {
    "activations": "tenterhook_transformers.saving.Activations",
    "inference": "tenterhook_transformers.inference.Inference",
    "lm": "tenterhook_transformers.LanguageModel",
    "model": "tenterhook.HookedModel",
    "run": "tenterhook.store.Run",
    "sae.concepts": "tenterhook_sae.concepts.Concepts",
    "taps": "tenterhook_taps.Taps",
}
"""What the variables on the pages are, and those that stand in headings."""
HEADINGS = {"The kinds": "tenterhook_sae.Sae"}
"""Headings without a name that tables of members stand under."""

RULED_OUT = {
    "make_worker",  # an argument of `Engine.run`
    *(hook for hook in vars(hookspecs) if hook.startswith("tenterhook_")),
}
"""What tables of names have besides names of the package."""
LISTS = re.compile(r"member|name|function|class|store|value|(?:field of )?`\w+`|fields?")
"""Heads of the columns whose spans are names of something that is there."""


@attrs.frozen
class Statement:
    """A code span that states something, and where it stands."""

    page: str
    line: int
    owner: str | None
    """The name in the heading above, if it has one."""
    code: str

    def __str__(self) -> str:
        return f"{self.page}.md:{self.line} {self.code}"


@attrs.frozen
class Row:
    """A row of a table: its cells by the heads of the columns, in order."""

    page: str
    line: int
    owner: str | None
    cells: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}.md:{self.line}"


@attrs.frozen
class Command:
    """A command of `tenterhook`: its words, how its usage writes its arguments, its options."""

    words: str
    arguments: str
    options: set[str]


def lines_of(page: Path) -> Iterator[tuple[int, str | None, str]]:
    """Give the lines outside of fenced code, with what the heading above names."""
    text = FENCED.sub(lambda fenced: "\n" * fenced[0].count("\n"), page.read_text())
    owners: list[str | None] = [None] * 7
    for number, line in enumerate(text.split("\n"), 1):
        if heading := re.match(r"(#+) (.*)", line):
            level = len(heading[1])
            spans = SPAN.findall(heading[2])
            mine = spans[0].partition("(")[0] if spans else HEADINGS.get(heading[2])
            owners[level:] = [mine] * (7 - level)
        yield number, owners[-1], line


def rows_of(page: Path) -> Iterator[Row]:
    """Give the rows of all tables of a page."""
    heads: list[str] = []
    for number, owner, line in lines_of(page):
        if not line.startswith("|"):
            heads = []
            continue
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if not heads:
            heads = cells
        elif not set(line) <= set("|- "):
            yield Row(page.stem, number, owner, dict(zip(heads, cells, strict=False)))


def statements() -> Iterator[Statement]:
    """Give what the pages state: in headings, first columns, and at the beginning of lines."""
    for page in PAGES:
        if page.stem not in MODULES:
            continue
        for row in rows_of(page):
            for code in SPAN.findall(next(iter(row.cells.values()))):
                yield Statement(page.stem, row.line, row.owner, code)
        for number, owner, line in lines_of(page):
            found = SPAN.findall(line) if line.startswith("#") else re.findall(r"^`([^`]+)`", line)
            for code in found:
                yield Statement(page.stem, number, owner, code)


CALL = re.compile(r"(?P<name>[A-Za-z_][\w.]*)\((?P<given>.*)\)", re.DOTALL)
CUT = re.compile(r"((?<![=\w])\.\.\.|$)")
CALLS = [each for each in statements() if CALL.fullmatch(each.code)]
ROWS = [row for page in PAGES if page.stem in MODULES for row in rows_of(page)]


class Unknown(LookupError):
    """A page names what is not there."""


def look_up(name: str, page: str, owner: str | None = None) -> Any:
    """Return what a name on a page means; `Unknown` where it means nothing.

    A name that is an instance's alone, with no value on the class, is `None`.
    """
    if owner and owner != name:
        cls = look_up(owner, page)
        for member in (name, f"__{name}__"):
            if has(cls, member):
                return getattr(cls, member, None)
    if name in VARIABLES:
        return import_path(VARIABLES[name])
    first, _, rest = name.partition(".")
    if first in VARIABLES and rest:
        return member_of(import_path(VARIABLES[first]), rest)
    if "." in name and first.startswith("tenterhook"):
        return import_path(name)
    for module in MODULES[page]:
        found = getattr(importlib.import_module(module), first, None)
        if found is not None:
            return member_of(found, rest) if rest else found
    raise Unknown(f"{page}.md names {name!r}, and nothing is called so (under {owner!r})")


def member_of(cls: Any, path: str) -> Any:
    """Return a member of a class, or a member's; `None` for what its instances alone have."""
    for name in path.split("."):
        if not has(cls, name):
            raise Unknown(f"{cls} has no {name!r}")
        cls = getattr(cls, name, None)
    return cls


def has(cls: Any, name: str) -> bool:
    """Say whether a class, or an instance of it, has a member."""
    return hasattr(cls, name) or name in set_by(cls)


def set_by(cls: Any) -> set[str]:
    """Return what the methods of a class assign to `self`, those of its own bases too."""
    if not inspect.isclass(cls):
        return set()
    found = set()
    for each in cls.__mro__:
        if not each.__module__.startswith("tenterhook"):
            continue
        found |= {*getattr(each, "__annotations__", {})}
        source = textwrap.dedent(inspect.getsource(each))
        found |= {
            node.attr
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
    return found


def import_path(path: str) -> Any:
    """Return what an import path names: a module, or something in one, however deep."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            if not hasattr(found, name):
                raise Unknown(f"{path}: {'.'.join(parts[:count])} has no {name!r}")
            found = getattr(found, name)
        return found
    raise Unknown(f"{path} cannot be imported")


def signature_of(call: Any, *, is_member: bool) -> inspect.Signature:
    """Return a call's signature without `self`."""
    signature = inspect.signature(call)
    parameters = list(signature.parameters.values())
    if is_member and parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)


def parameters_in(text: str) -> list[inspect.Parameter] | None:
    """Return the parameters that a page writes; `None` where they are values, of an example."""
    try:
        (made,) = ast.parse(f"def call({text}): ...").body
    except SyntaxError:
        return None
    assert isinstance(made, ast.FunctionDef)
    namespace: dict[str, Any] = {"slice": slice, "torch": torch}
    exec(ast.unparse(made), namespace)
    return list(inspect.signature(namespace["call"]).parameters.values())


def same(stated: inspect.Parameter, actual: inspect.Parameter, *, kind: bool = True) -> bool:
    """Say whether a parameter is as a page states it; `=...` is any default."""
    if stated.name != actual.name:
        return False
    if kind and stated.kind != max(actual.kind, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        return False
    if stated.default is ...:
        return actual.default is not inspect.Parameter.empty
    return bool(stated.default == actual.default)


def test_every_plugin_hook_is_in_the_list() -> None:
    """The page of plugins lists the functions that a plugin may have, and no other."""
    listed = re.findall(r"^\| \[`(\w+)`\]", (FOLDER / "plugins.md").read_text(), re.MULTILINE)
    there = {name for name in vars(hookspecs) if name.startswith("tenterhook_")}
    assert set(listed) == there


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    """A public name is in the reference."""
    assert name in NAMED, f"{name} is on no page of docs/reference"


@pytest.mark.parametrize("member", MEMBERS)
def test_member(member: str) -> None:
    """A public method or attribute of a public class is in the reference."""
    name = member.partition(".")[2]
    assert name in NAMED, f"{member} is on no page of docs/reference"


@pytest.mark.parametrize("stated", CALLS, ids=str)
def test_call(stated: Statement) -> None:
    """A call is stated with the names, order, kinds and defaults that its signature has."""
    match = CALL.fullmatch(stated.code)
    assert match
    name, given = match["name"], match["given"]
    found = look_up(name, stated.page, stated.owner)
    is_member = not inspect.isclass(found) and inspect.isfunction(found)
    if hasattr(builtins, name):  # `len(run)`
        return
    if inspect.isclass(found) and name in VARIABLES:  # `model(...)`
        found, is_member = found.__call__, True
    signature = signature_of(found, is_member=is_member)
    actual = list(signature.parameters.values())
    head, cut, tail = (part.strip(", ") for part in CUT.split(given, maxsplit=1))
    stated_head, stated_tail = parameters_in(head), parameters_in(tail)
    if stated_head is None or stated_tail is None:
        if not cut:
            call = ast.parse(stated.code, mode="eval").body
            assert isinstance(call, ast.Call)
            signature.bind(*call.args, **{str(each.arg): each.value for each in call.keywords})
        return
    says = f"{stated} has the signature {name}{signature}"
    assert cut or len(stated_head) == len(actual), says
    assert all(map(same, stated_head, actual)), says
    for each in stated_tail:
        assert each.name in signature.parameters, says
        assert same(each, signature.parameters[each.name], kind=False), says


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_names_in_tables(row: Row) -> None:
    """A table of names names what is there; one of settings, parameters with their defaults."""
    for head, cell in row.cells.items():
        owner = row.owner
        if head == "setting" and owner:
            parameters = signature_of(look_up(owner, row.page), is_member=False).parameters
            for code in SPAN.findall(cell):
                parsed = parameters_in(code)
                assert parsed, f"{row}: {code} is no setting"
                (stated,) = parsed
                assert stated.name in parameters, f"{row}: {owner} takes no {code}"
                if stated.default is not inspect.Parameter.empty:
                    assert same(stated, parameters[stated.name], kind=False), f"{row}: {code}"
            continue
        first = next(iter(row.cells))
        if not LISTS.fullmatch(head) or (head != first and head not in ("fields",)):
            continue
        if head == "fields":
            (owner,) = re.findall(r"\w+", SPAN.findall(row.cells[first])[0])[:1]
        elif "`" in head:
            (owner,) = SPAN.findall(head)
        for code in SPAN.findall(cell):
            if code.isidentifier() and code not in ("in", "None", *RULED_OUT):
                look_up(code, row.page, owner)


ERRORS = [row for row in ROWS if {"error", "name"} & row.cells.keys() and "is also a" in row.cells]


@pytest.mark.parametrize("row", ERRORS, ids=str)
def test_errors(row: Row) -> None:
    """An error is a subclass of what its page says that it is also a."""
    first = next(iter(row.cells.values()))
    for name in SPAN.findall(first):
        error = look_up(name, row.page)
        for base in SPAN.findall(row.cells["is also a"]):
            other = getattr(builtins, base, None) or look_up(base, row.page)
            assert issubclass(error, other), f"{row}: {name} is no {base}"


PATHS = sorted(
    {code.partition("(")[0] for code in CODE if re.match(r"tenterhook[\w.]*\.\w+(\(|$)", code)}
)


@pytest.mark.parametrize("path", PATHS)
def test_import_path(path: str) -> None:
    """An import path on a page of the reference leads somewhere."""
    if path not in ("tenterhook.json", "tenterhook.plugins"):
        import_path(path)


COMMANDS = FOLDER / "command-line.md"
TAKES_THE_SAME = {"runs resume": ("work", {"--slice"})}
"""A command whose options the page gives as those of another, but for some."""


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Give the commands that there are, and what each takes."""
    context = click.Context(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        context_of_command = command.make_context(word, [], resilient_parsing=True)
        command = context_of_command.command  # of a plugin: what its name stood for
        if isinstance(command, click.Group):
            yield from commands(command, (*words, word))
            continue
        _, *arguments = command.collect_usage_pieces(context_of_command)
        params = command.get_params(context_of_command)
        known = [each for each in params if isinstance(each, click.Option) and not each.is_eager]
        options = {name for each in known for name in (each.opts[0], *each.secondary_opts)}
        yield Command(" ".join((*words, word)), " ".join(arguments), options)


def stated_commands() -> dict[str, str]:
    """Return the command lines in the table of commands, with the rest of their rows."""
    return {
        SPAN.findall(row.cells["command"])[0].removeprefix("tenterhook "): row.cells["does"]
        for row in rows_of(COMMANDS)
        if "command" in row.cells
    }


def options_in_tables() -> dict[str, set[str]]:
    """Return the options in the tables below the headings of commands, by command."""
    found: dict[str, set[str]] = {}
    heading = ""
    for _, _, line in lines_of(COMMANDS):
        if line.startswith("#"):
            spans = SPAN.findall(line)
            heading = spans[0].removeprefix("tenterhook ") if spans else ""
        elif line.startswith("| `--"):
            options = re.findall(r"`(--[\w-]+)", line.partition(" | ")[0])
            found.setdefault(heading, set()).update(options)
    return found


@pytest.mark.parametrize("command", [*commands()], ids=lambda command: command.words)
def test_command(command: Command) -> None:
    """The page has each command with its arguments, and each option that the command takes."""
    stated, tables = stated_commands(), options_in_tables()
    usage = f"{command.words} {command.arguments}".strip()
    (line,) = [each for each in stated if each.partition(" --")[0] == usage]
    other, without = TAKES_THE_SAME.get(command.words, ("", set()))
    if other:
        (table,) = [each for each in tables if each.startswith(f"{other} ")]
        assert tables[table] - without == command.options
    elif usage in tables:
        assert tables[usage] == command.options
    else:
        in_row = set(re.findall(r"--[\w-]+", f"{line} {stated[line]}"))
        assert in_row | {"--json"} >= command.options
        assert in_row <= command.options


def test_every_command_of_the_page_is_there() -> None:
    """In the table of commands, and in the headings above options."""
    there = {f"{command.words} {command.arguments}".strip() for command in commands()}
    assert {line.partition(" --")[0] for line in stated_commands()} == there
    assert {*options_in_tables()} <= there


DOORS = [row.cells for row in ROWS if "door" in row.cells]


def test_every_door_is_in_the_table() -> None:
    """Each door of core, which is a module with its types beside it, is in the table of doors."""
    core = FOLDER.parents[1] / "core/src"
    doors = {
        ".".join(path.relative_to(core).with_suffix("").parts)
        for path in core.glob("**/*.pyi")
        if path.stem != "__init__"
    }
    assert {SPAN.findall(cells["door"])[0] for cells in DOORS} == doors


@pytest.mark.parametrize("cells", DOORS, ids=lambda cells: cells["door"].strip("`"))
def test_door(cells: dict[str, str]) -> None:
    """What is behind a door is the package that the table names, of that distribution."""
    door, package, distribution = (cell.strip("`") for cell in cells.values())
    assert import_path(door) is import_path(package)
    found = {each.name.lower() for each in metadata.distributions()}
    assert distribution in found
    top = package.partition(".")[0]
    assert top.replace("_", "-") == distribution.removesuffix("-core")
