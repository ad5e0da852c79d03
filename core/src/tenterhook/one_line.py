"""What can be said of objects that are not ours: in one line, short, and never an error.

A plugin's objects may fail to say what they are, say it over many lines, or send the terminal
commands.
"""

from collections.abc import Callable

LONGEST = 500
"""Characters of what is shown; an error may hold a whole file."""


def said(error: BaseException, longest: int = LONGEST) -> str:
    """Return an error as one line that can be printed, its type first."""
    text = said_by(lambda: str(error), longest)
    return f"{type_name(error)}: {text}" if text else type_name(error)


def shown(value: object) -> str:
    """Return the `repr` of a value as one line that can be printed; its type where it has none."""
    return said_by(lambda: repr(value)) or f"<{type_name(value)}>"


def type_name(value: object) -> str:
    """Return the name of a value's type, whatever its metaclass says of it."""
    return printable(type.__dict__["__name__"].__get__(type(value)))


def printable(text: str, longest: int = LONGEST) -> str:
    """Return text as one line, what no terminal should be told as escapes, cut where it is long."""
    line = " ".join(text[: 2 * longest].split())
    line = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in line
    )
    return f"{line[:longest]}..." if len(text) > 2 * longest or len(line) > longest else line


def exact(text: str) -> str:
    """Return text as a `str` and of no subclass, whose methods would be its author's.

    What is no text is returned as it is.
    """
    return str.__str__(text) if isinstance(text, str) else text  # type: ignore[redundant-expr]


def said_by(say: Callable[[], str], longest: int = LONGEST) -> str:
    """Return what a call says, as one line that can be printed; nothing where it fails."""
    try:
        return printable(exact(say()), longest)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whoever asked shows the type
        return ""
