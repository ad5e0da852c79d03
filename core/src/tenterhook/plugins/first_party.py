"""What the first-party plugins declare, by distribution: `first_party.toml`, and by kind and name.

Core imports no plugin. It knows these names to tell somebody who lacks one what to install, and to
keep them free: no other distribution serves them.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

_DECLARED = tomllib.loads(Path(__file__).with_name("first_party.toml").read_text("utf-8"))

FIRST_PARTY: Mapping[str, Mapping[str, str]] = {
    kind: {name: each for each, kinds in _DECLARED.items() for name in kinds.get(kind, ())}
    for kind in sorted({kind for kinds in _DECLARED.values() for kind in kinds})
}
"""Kind to name to the distribution that has it."""


def asked_as(kind: str) -> str:
    """Return what a kind is asked for as: `tenterhook.hooks` serves detectors and controllers."""
    return "hooks" if kind in ("detectors", "controllers") else kind


RESERVED: Mapping[tuple[str, str], str] = {
    (asked, name): distribution
    for kind, names in FIRST_PARTY.items()
    for name, distribution in names.items()
    for asked in (kind, asked_as(kind))
}
"""A kind, or what it is asked for as, and a name, to the distribution that alone may serve it."""
