"""Which hook points are meant: names, lists of them, glob patterns, predicates."""

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tenterhook_hook_points.errors import UnknownHookPoint
from tenterhook_hook_points.spellings import other_spellings

NamesFilter = str | Callable[[str], Any] | Iterable[Any] | None
"""Hook points: a name, a glob pattern (`"blocks.*.hook_q"`), a predicate of the name, or a list,
tuple or set of these; `None` for all. Names may be spelled as in other libraries (`spellings`)."""


def chosen(
    names_filter: NamesFilter, known: Collection[str], modules: Mapping[str, object] | None = None
) -> list[str]:
    """Return the names that a filter means, each once, in the order of `known`.

    `modules` are those of the model, so that the name of one that is no hook point gets a better
    message. Raises `UnknownHookPoint` for a name or pattern that means none, `TypeError` for what
    is no filter. A predicate may hold for none.
    """
    if names_filter is None:
        return list(known)
    if isinstance(names_filter, str):
        return _named(names_filter, known, modules or {})
    if callable(names_filter):
        return [name for name in known if names_filter(name)]
    if isinstance(names_filter, Iterable):
        wanted = {name for each in names_filter for name in chosen(_one(each), known, modules)}
        return [name for name in known if name in wanted]
    raise _no_filter(names_filter)


def _one(part: Any) -> str | Callable[[str], Any]:
    if not isinstance(part, str) and not callable(part):
        raise _no_filter(part)
    found: str | Callable[[str], Any] = part
    return found


def _no_filter(value: object) -> TypeError:
    return TypeError(
        f"{type(value).__name__} names no hook points. Give a name, a glob pattern, a predicate "
        "of the name, or a list, tuple or set of these."
    )


def _named(name: str, known: Collection[str], modules: Mapping[str, object]) -> list[str]:
    is_pattern = any(mark in name for mark in "*?[")
    for spelling in (name, *other_spellings(name)):
        if spelling in known:
            return [spelling]
        found = [each for each in known if fnmatchcase(each, spelling)] if is_pattern else []
        if found:
            return found
    if is_pattern:
        raise UnknownHookPoint(name, known, "The pattern matches none.")
    other = modules.get(name)
    detail = "" if other is None else f"That is a {type(other).__name__}, which is none."
    raise UnknownHookPoint(name, known, detail)


def checked_direction(direction: str, *, both: bool = True, name: str = "dir") -> str:
    """Return a direction; `ValueError` unless it is `fwd`, `bwd` or, where it may be, `both`."""
    valid = ("fwd", "bwd", "both") if both else ("fwd", "bwd")
    if direction not in valid:
        raise ValueError(f"{name}={direction!r} is not one of {', '.join(map(repr, valid))}.")
    return direction
