"""Which extension serves a name: the only one that has it, and none where plugins clash.

It does not matter which plugin was found first. What a program registers by hand it means, so that
keeps its name; and core's commands keep theirs.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import attrs

from tenterhook.hookspecs import KINDS
from tenterhook.plugins.asking import served_as
from tenterhook.plugins.entry_points import BLOCK_VARIABLE
from tenterhook.plugins.problems import AmbiguousExtension, PluginProblem, one_of, singular
from tenterhook.plugins.registered import Registered
from tenterhook_cli.words import COMMANDS


@attrs.frozen
class Serving:
    """What names give, of the extensions that are registered."""

    by_kind: Mapping[str, Mapping[str, Registered]]
    """Kind to name to the extension that serves it, sorted by name."""
    clashing: Mapping[tuple[str, str], tuple[Registered, ...]]
    """What a name is served as, and the name: the extensions that share it and are not served."""
    problems: tuple[PluginProblem, ...]
    """What to report of them."""

    @classmethod
    def of(cls, registered: Iterable[Registered]) -> "Serving":
        """Decide."""
        ordered = sorted(registered, key=lambda each: (each.distribution or "", each.plugin))
        served: list[Registered] = []
        clashing = {}
        problems = list(_shared_plugin_names(ordered))
        for (place, name), alike in _by_name(ordered).items():
            by_hand = [each for each in alike if each.distribution is None]
            if place == "commands" and name in COMMANDS:
                problems += [_taken_by_core(each) for each in alike if each.distribution]
            elif len({_owner(each) for each in alike}) == 1:
                served += alike
            elif by_hand:
                served += by_hand
                problems += [_taken_by_hand(each) for each in alike if each.distribution]
            else:
                clashing[place, name] = tuple(alike)
                first, *others = _one_of_each_owner(alike)
                problems += [_clash(each, first) for each in others]
        by_kind = {
            kind: MappingProxyType(
                {
                    each.extension.name: each
                    for each in sorted(served, key=lambda each: each.extension.name)
                    if each.kind == kind
                }
            )
            for kind in KINDS
        }
        return cls(by_kind, clashing, tuple(problems))

    def ambiguous(self, kind: str, name: str) -> AmbiguousExtension | None:
        """Return the error to raise where plugins clash over the name, else `None`."""
        alike = self.clashing.get((served_as(kind), name))
        if not alike:
            return None
        owners = _one_of_each_owner(alike)
        return AmbiguousExtension(
            kind, name, [each.origin for each in owners], _remedy(*owners[:2])
        )


def _by_name(ordered: Iterable[Registered]) -> dict[tuple[str, str], list[Registered]]:
    found: dict[tuple[str, str], list[Registered]] = {}
    for each in ordered:
        found.setdefault((served_as(each.kind), each.extension.name), []).append(each)
    return found


def _owner(registered: Registered) -> tuple[str | None, str]:
    return registered.distribution, registered.plugin


def _one_of_each_owner(alike: Iterable[Registered]) -> list[Registered]:
    return list({_owner(each): each for each in reversed(list(alike))}.values())[::-1]


def _what(registered: Registered) -> str:
    return f"{singular(registered.kind)} {registered.extension.name!r}"


def _clash(one: Registered, first: Registered) -> PluginProblem:
    return _problem(
        one,
        f"its {_what(one)} has the name of {one_of(first.kind)} of {first.origin}, and the "
        "name serves neither. All else of both works.",
        _remedy(first, one),
    )


def _remedy(one: Registered, other: Registered) -> str:
    blocks = " or ".join(
        f"{BLOCK_VARIABLE}={_word_for(*each)}" for each in ((one, other), (other, one))
    )
    return f"Import it from its own package, uninstall one of them, or set {blocks}."


def _word_for(one: Registered, other: Registered) -> str | None:
    """Return what names a plugin and not the other."""
    return one.plugin if one.plugin != other.plugin else one.distribution


def _taken_by_hand(one: Registered) -> PluginProblem:
    return _problem(
        one,
        f"its {_what(one)} has a name that the program registered by hand, which it serves. All "
        "else works.",
        f"Import it from its own package, or set {BLOCK_VARIABLE}={one.plugin}.",
    )


def _taken_by_core(one: Registered) -> PluginProblem:
    return _problem(
        one,
        f"its {_what(one)} is one of tenterhook's own, which is what runs. All else works.",
        f"Ask its author for another name, or set {BLOCK_VARIABLE}={one.plugin}.",
    )


def _shared_plugin_names(ordered: Iterable[Registered]) -> Iterator[PluginProblem]:
    """Report plugins that are called alike; both work, and what names one names both."""
    first: dict[str, Registered] = {}
    for each in _one_of_each_owner(ordered):
        other = first.setdefault(each.plugin, each)
        if other is not each:
            yield _problem(
                each,
                f"{other.origin} is called so too. Both work, and {BLOCK_VARIABLE}={each.plugin} "
                "keeps out both.",
                f"Name a distribution there, as {each.distribution}, or ask its author for "
                "another name.",
            )


def _problem(registered: Registered, cause: str, remedy: str) -> PluginProblem:
    return PluginProblem(
        entry_point=registered.plugin,
        distribution=registered.distribution,
        version=registered.version,
        cause=cause,
        remedy=remedy,
        clashes=True,
    )
