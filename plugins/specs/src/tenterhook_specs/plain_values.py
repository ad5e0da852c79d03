"""What a spec may hold: text, numbers, lists and tables, neither too deep nor too many.

A short text can say more than a computer holds, and a deep one ends the recursion of whatever reads
it next, so this looks at the values without recursion, and before anything else does.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tenterhook.one_line import printable
from tenterhook_specs.errors import BadSpec

DEEPEST = 64
"""Tables and lists inside each other."""

LONGEST_KEY = 1000
"""Characters of a key; an error looks for the names most like it, in time of the square."""

MOST_REPEATED = 100_000
"""Values that aliases of a text may repeat, together."""

ValuePath = tuple["ValuePath", str | int] | None
"""A key or index and the path before it; text is made of it only for an error."""


def check_plain(values: Any, *, most: int, where: str) -> None:
    """Raise `BadSpec` for what is not plain, lies too deep, or is one value too many.

    `where` is what holds the values, for the error.
    """
    for path, value in leaves(values, most=most, where=where):
        if value is not None and type(value) not in (bool, int, float, str):
            what = type(value).__name__
            raise BadSpec(
                [f"{path_text(path, where)} is a {what}, which is no plain value; put it in quotes"]
            )


def leaves(values: Any, *, most: int, where: str) -> Iterator[tuple[ValuePath, Any]]:
    """Yield what is inside lists and tables and is neither, each with its path, in order.

    Raises `BadSpec` for keys that are no text, for lists and tables too deep inside each other, and
    after `most` values.
    """
    count = 0
    stack: list[tuple[ValuePath, Any, int]] = [(None, values, 0)]
    while stack:
        path, value, depth = stack.pop()
        count += 1
        if count > most:
            raise BadSpec([f"{where} holds more than {most:,} values"])
        if not isinstance(value, Mapping | list | tuple):
            yield path, value
            continue
        if count + len(stack) + len(value) > most:  # they are not even put on the stack
            raise BadSpec([f"{where} holds more than {most:,} values"])
        if depth > DEEPEST:
            raise BadSpec([f"{where} has more than {DEEPEST} lists and tables inside each other"])
        items: list[tuple[Any, Any]] = list(
            value.items() if isinstance(value, Mapping) else enumerate(value)
        )
        for key, item in reversed(items):
            if isinstance(value, Mapping) and type(key) is not str:
                what = path_text(path, where)
                raise BadSpec([f"{what} has the key {printable(repr(key))}, and keys are text"])
            if type(key) is str and len(key) > LONGEST_KEY:
                raise BadSpec([f"{path_text(path, where)} has a key of {len(key):,} characters"])
            stack.append(((path, key), item, depth + 1))


def path_text(path: ValuePath, where: str) -> str:
    """Return a path as people write it, `hooks[0].layer`; `where` for the whole."""
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(f"[{key}]" if isinstance(key, int) else f".{printable(key, 80)}")
    return "".join(reversed(parts)).removeprefix(".") or where
