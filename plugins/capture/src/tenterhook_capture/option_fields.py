"""Options as fields of attrs classes: checked there, and described for whoever shows them.

A command line, a table or a call reads from the class which options there are, their defaults and
what they do. Nothing here imports torch.
"""

from collections.abc import Callable
from typing import Any

import attrs

from tenterhook_capture.errors import BadArgument

__all__ = [
    "About",
    "about",
    "default_of",
    "described",
    "option",
]

ABOUT = "tenterhook_option"
"""The key of a field's metadata under which its `About` is."""


@attrs.frozen(kw_only=True)
class About:
    """What people are told of an option."""

    help: str
    """What it does. Another option's name stands in backticks: `` `reduce` ``."""
    group: str
    """The heading that it stands under in help and tables."""
    choices: tuple[str, ...] = ()
    """The words that it may be; empty where it is something else."""
    least: int | None = None
    """The smallest whole number that it may be; `None` where it is no number."""
    takes_list: bool = False
    """Whether it may be several words, with commas between them."""
    repeats: bool = False
    """Whether it may be given several times, each with a value of its own."""


def about(help: str, group: str, **more: Any) -> dict[str, About]:
    """Return a field's metadata: what people are told of it, and what it may be; see `About`."""
    return {ABOUT: About(help=help, group=group, **more)}


def option(default: Any, *, help: str, group: str, **more: Any) -> Any:
    """Return a field that is an option, checked as `About` says: `least` or `choices`.

    An option whose default is `None` may be that too.
    """
    metadata = about(help, group, **more)
    validators: list[Callable[[Any, attrs.Attribute[Any], Any], None]] = []
    if metadata[ABOUT].least is not None:
        validators.append(_count)
    if metadata[ABOUT].choices:
        validators.append(_choice)
    checks = attrs.validators.and_(*validators)
    if default is None:
        checks = attrs.validators.optional(checks)
    return attrs.field(default=default, validator=checks, metadata=metadata)


def described(cls: type[attrs.AttrsInstance]) -> dict[str, tuple["attrs.Attribute[Any]", About]]:
    """Return the options of a class by name, in their order: each one's field, and its `About`."""
    return {
        field.name: (field, field.metadata[ABOUT])
        for field in attrs.fields(cls)
        if ABOUT in field.metadata
    }


def default_of(field: "attrs.Attribute[Any]") -> Any:
    """Return an option's default; `None` where it follows from the other options."""
    return None if hasattr(field.default, "factory") else field.default


def check_count(name: str, number: object) -> None:
    """Raise `BadArgument` unless it is a whole number, 1 or more."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise BadArgument(name, number, "a whole number, 1 or more")


def _count(_: object, attribute: "attrs.Attribute[Any]", number: object) -> None:
    check_count(attribute.name, number)


def _choice(_: object, attribute: "attrs.Attribute[Any]", found: object) -> None:
    choices = attribute.metadata[ABOUT].choices
    if found not in choices:
        words = [repr(each) for each in choices]
        raise BadArgument(attribute.name, found, f"{', '.join(words[:-1])} or {words[-1]}")
