"""What others' objects say of themselves, as one short line that is safe to print.

An error or a name of a plugin may run over many lines, or hold commands for the terminal.
"""

from collections.abc import Callable

LONGEST = 500
"""Characters of what is shown; an error may hold a whole file."""


def error_line(error: BaseException, longest: int = LONGEST) -> str:
    """Return an error as one line that can be printed, its type first."""
    text = _rendered(str, error, longest)
    return f"{type_name(error)}: {text}" if text else type_name(error)


def shown(value: object) -> str:
    """Return the `repr` of a value as one line that can be printed; its type where it has none."""
    return _rendered(repr, value, LONGEST) or f"<{type_name(value)}>"


def type_name(value: object) -> str:
    """Return the name of a value's type."""
    return printable(type(value).__name__)


def printable(text: str, longest: int = LONGEST) -> str:
    """Return text as one line, what no terminal should be told as escapes, cut where it is long."""
    line = " ".join(text[: 2 * longest].split())
    line = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in line
    )
    return f"{line[:longest]}..." if len(text) > 2 * longest or len(line) > longest else line


def _rendered(render: Callable[[object], str], value: object, longest: int) -> str:
    try:
        return printable(render(value), longest)
    except Exception:  # noqa: BLE001 - its author's mistake; whoever asked shows the type
        return ""
