"""Every public name, and every public member of the classes, is in the reference."""

import re
from pathlib import Path

import pytest

import tenterhook_hook_points
from tenterhook_hook_points import ActivationCache, HookedRootModule, HookPoint, LensHandle

PAGE = Path(__file__).parents[3] / "docs/reference/hook-points.md"
NAMED = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", PAGE.read_text()))))
NOT_OURS = {"forward", "extra_repr"}  # torch's


@pytest.mark.parametrize("name", tenterhook_hook_points.__all__)
def test_name(name: str) -> None:
    """A public name is on the page."""
    assert name in NAMED


@pytest.mark.parametrize("kind", [ActivationCache, HookPoint, HookedRootModule, LensHandle])
def test_members(kind: type) -> None:
    """So are the methods and attributes of a public class."""
    members = {*vars(kind), *getattr(kind, "__annotations__", {})} - NOT_OURS
    assert {name for name in members if not name.startswith("_")} <= NAMED
