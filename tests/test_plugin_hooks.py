"""Each hook that a plugin may implement is documented, tested, and used by a plugin of ours."""

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from tenterhook import hookspecs
from tenterhook.hookspecs import KINDS
from tenterhook.plugins import FIRST_PARTY
from tenterhook_cli.scaffold import BEGINNINGS, hook_of

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/reference/plugin-hooks"
TESTS = ROOT / "plugins/cli/tests/test_hookspecs.py"


def specified(module: ModuleType = hookspecs) -> list[str]:
    """Return the hooks that the contract has."""
    return [name for name in vars(module) if name.startswith("tenterhook_")]


HOOKS = specified()


def undocumented(hook: str, pages: Path = PAGES) -> list[str]:
    """Say what the reference lacks of a hook."""
    page = pages / f"{hook.removeprefix('tenterhook_')}.md"
    text = page.read_text() if page.is_file() else ""
    index = (pages / "README.md").read_text()
    begun = {f"tenterhook_{hook_of(kind)}": kind for kind in BEGINNINGS}
    how = f"Begin one with `tenterhook plugins new NAME --kind {begun.get(hook)}`"
    wanted = {
        "a page": text.startswith(f"# `{hook}`\n"),
        "a runnable example": "\n```python\n" in text,
        "what it prints": "\n```text\n" in text,
        "how one is begun": how in text,
        "a line in the index": f"[`{hook}`]({page.name})" in index,
        "a docstring": bool(inspect.getdoc(getattr(hookspecs, hook, None))),
    }
    return [what for what, there in wanted.items() if not there]


def untested(hook: str, tests: str) -> bool:
    """Say whether no class of tests is named after a hook, or it holds no test."""
    name = "".join(part.title() for part in hook.split("_")[1:])
    found = re.search(rf"^class Test{name}\b.*?(?=^class |\Z)", tests, flags=re.M | re.S)
    return found is None or not re.search(r"^    def test_", found[0], flags=re.M)


def test_the_kinds_are_the_hooks() -> None:
    """Nothing is declared that cannot be asked for."""
    assert [f"tenterhook_{kind}" for kind in KINDS] == HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_documented(hook: str) -> None:
    """On a page of its own, with an example that tests/test_docs.py runs."""
    assert undocumented(hook) == []


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_tested(hook: str) -> None:
    """By a class in plugins/cli/tests/test_hookspecs.py that is named after it."""
    assert not untested(hook, TESTS.read_text())


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_used_by_a_plugin_of_ours(hook: str) -> None:
    """A contract that nobody fills is a guess."""
    assert FIRST_PARTY[hook.removeprefix("tenterhook_")]


def test_a_new_hook_would_be_noticed() -> None:
    """The guards fail for a hook that has neither page nor test."""
    assert undocumented("tenterhook_dreams") == [
        "a page",
        "a runnable example",
        "what it prints",
        "how one is begun",
        "a line in the index",
        "a docstring",
    ]
    assert untested("tenterhook_dreams", TESTS.read_text())
    assert untested("tenterhook_dreams", "class TestDreams:\n    x = 1\n")
