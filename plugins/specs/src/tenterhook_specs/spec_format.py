"""What a format of specs is: text to plain values, and back."""

from typing import Any, Protocol


class SpecFormat(Protocol):
    """A format that specs are written in; a plugin offers one by `tenterhook_spec_formats`.

    Plain values are text, numbers, `True`, `False` and `None`, lists of them, and dictionaries of
    them by text.
    """

    def loads(self, text: str) -> Any:
        """Return the plain values that the text says.

        Raises `ValueError` for text that is not of the format.
        """
        ...

    def dumps(self, values: Any) -> str:
        """Return text from which `loads` reads the same values."""
        ...
