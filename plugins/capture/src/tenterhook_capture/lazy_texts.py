"""Texts and values that are read when they are asked for, and which of many hold something."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Self, TypeVar, final, overload

T = TypeVar("T")

AT_ONCE = 64
"""How many are read at once, where they are read one after the other."""


class _Lazy(Sequence[T]):
    def __init__(self, count: int, read: Callable[[int, int], list[T]]) -> None:
        """There are `count`, and `read(start, stop)` returns some that follow each other."""
        self._count = count
        self._read = read

    def first(self, count: int) -> Self:
        """Return the first so many, which stay where they are."""
        return type(self)(min(count, self._count), self._read)

    def at(self, numbers: Sequence[int]) -> Self:
        """Return those of some numbers, which rise; they stay where they are."""
        return type(self)(len(numbers), self._at(numbers))

    def _at(self, numbers: Sequence[int]) -> Callable[[int, int], list[T]]:
        def read(start: int, stop: int) -> list[T]:
            stretches = _stretches(numbers[start:stop])
            return [value for first, last in stretches for value in self._read(first, last)]

        return read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[T]: ...
    def __getitem__(self, key: int | slice) -> T | Sequence[T]:
        """Read one, or several."""
        places = range(self._count)[key]
        if isinstance(places, int):
            return self._read(places, places + 1)[0]
        if places.step != 1:
            return [self[place] for place in places]
        return self._read(places.start, places.stop) if places else []

    def __iter__(self) -> Iterator[T]:
        for start in range(0, self._count, AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def __eq__(self, other: object) -> bool:
        """Whether the other is a sequence of the same."""
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._count})"


@final
class LazyTexts(_Lazy[str]):
    """Texts that stay where they are, and are read when they are asked for."""

    def __init__(
        self,
        count: int,
        read: Callable[[int, int], list[str]],
        where: Callable[[int], str] | None = None,
    ) -> None:
        """`where` says of one where people find it, as file and line; it may take long."""
        super().__init__(count, read)
        self._where = where

    def first(self, count: int) -> Self:
        """Return the first so many, which stay where they are."""
        return type(self)(min(count, len(self)), self._read, self._where)

    def where(self, number: int) -> str | None:
        """Return where people find one; `None` where nobody knows."""
        return None if self._where is None else self._where(number)

    def at(self, numbers: Sequence[int]) -> Self:
        """Return those of some numbers, which rise; they stay where they are."""
        where = self._where
        return type(self)(
            len(numbers),
            self._at(numbers),
            None if where is None else lambda number: where(numbers[number]),
        )


def _stretches(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where each stretch of numbers that follow each other begins and ends."""
    for _, some in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in some]
        yield found[0], found[-1] + 1


@final
class LazyValues(_Lazy[Any]):
    """Values of a field of records, one a document, that are read when they are asked for."""


def texts_with_content(
    texts: Iterable[str | None], limit: int | None = None
) -> tuple[list[str], list[int]]:
    """Return the texts that hold something, up to `limit` of them, and the numbers of the others.

    Reads no further than the last text that it returns.
    """
    found: list[str] = []
    empty: list[int] = []
    for number, text in enumerate(texts):
        if text is None or not text.strip():
            empty.append(number)
            continue
        found.append(text)
        if len(found) == limit:
            break
    return found, empty
