"""Every public name, and every public member of the classes behind them, has its reference."""

import re
from pathlib import Path

import pytest

import tenterhook
import tenterhook.hooks
import tenterhook.hooks.utils
import tenterhook_capture

PAGES = sorted((Path(__file__).parents[1] / "docs/reference").glob("*.md"))
CODE = re.findall(
    r"`([^`\n]+)`",
    re.sub(r"^```.*?^```$", "", "\n".join(page.read_text() for page in PAGES), flags=re.M | re.S),
)
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


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    """A public name is in the reference."""
    assert name in NAMED, f"{name} is on no page of docs/reference"


@pytest.mark.parametrize("member", MEMBERS)
def test_member(member: str) -> None:
    """A public method or attribute of a public class is in the reference."""
    name = member.partition(".")[2]
    assert name in NAMED, f"{member} is on no page of docs/reference"
